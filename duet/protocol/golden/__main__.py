"""Write the golden vectors again: ``python -m duet.protocol.golden [folder]``."""

import sys
from pathlib import Path

from duet.protocol.golden import FOLDER
from duet.protocol.golden.vectors import golden_files


def main() -> None:
    """Write every file into the folder that is named, or over the ones of the library."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in golden_files().items():
        (folder / name).write_bytes(data)
        print(f"{folder / name}  {len(data)} bytes")


if __name__ == "__main__":
    main()
