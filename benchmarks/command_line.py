"""What the command lines of the benchmarks have in common."""

import argparse


def parser_of(name: str, told: str | None) -> argparse.ArgumentParser:
    """Make the parser of ``python -m benchmarks NAME``, whose help is the text of its module.

    Args:
        name: Of the benchmark.
        told: The module's documentation.
    """
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=told,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
