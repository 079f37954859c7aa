"""Staying up, in one command: ten rollovers, replicas killed in turn, and a node removed, each under load.

    python -m benchmarks serving.chaos [--folder FOLDER] [--only rollover replica_deaths scale_out]

Every part is a benchmark of its own and a process of its own, because each starts a Ray with other flags; what a part
is not told here it takes by default. About a quarter of an hour.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.verdict import Claim, conclude

PARTS = ("rollover", "replica_deaths", "scale_out")


def main(arguments: Sequence[str]) -> None:
    """Run the parts one after the other; exit with 1 if the claims of one do not hold."""
    options = _parser().parse_args(arguments)
    models, model = versions.chosen(options)
    claims = []
    for part in options.only:
        print(f"== serving.{part}", flush=True)
        line = [sys.executable, "-m", "benchmarks", f"serving.{part}", "--models", str(models), "--model", model]
        finished = subprocess.run([*line, "--csv", str(options.folder / f"{part}.csv")], check=False)
        claims.append(Claim(f"serving.{part}", f"exit code {finished.returncode}", "0", finished.returncode == 0))
    conclude(claims)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.chaos", __doc__)
    versions.add_options(parser)
    parser.add_argument("--folder", type=Path, default=Path("chaos"), help="of the records; default: chaos")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run; default: all")
    return parser
