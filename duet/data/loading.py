"""``load(source)``: one string -> Interactions; a synthetic preset, or a file or folder whose format is detected.

    synthetic, synthetic:demo, synthetic:tiny         the built-in world (duet/data/synthetic.py)
    <format>:<path>                                   that format, nothing is detected
    <folder>   u.data                                 MovieLens-100K
               ratings.dat; sequences.txt+movies.dat  MovieLens-1M
               otherwise                              the only data file in it
    <file>     u.data; *.dat with "::" in line 1      MovieLens-100K; MovieLens-1M
               sequences.txt beside movies.dat        MovieLens-1M
               Parquet content; *.csv, *.tsv          table
               line 1 holds "," ";" or tab            table; MovieLens-100K when it is four tab-separated integers
               line 1 holds two words or more         sequence lines; Beauty.txt is called "amazon-beauty"

Detection looks at names and at the first line only; what the reader finds wrong later is reported by the reader.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from duet.data.interactions import Interactions
from duet.data.movielens import load_movielens_1m, load_movielens_100k
from duet.data.rows import CHECK_THE_PATH, read_bytes
from duet.data.sequence_lines import load_sequence_lines
from duet.data.synthetic import PRESETS, SyntheticWorld
from duet.protocol.errors import InvalidData

FORMATS = ("movielens-100k", "movielens-1m", "amazon-beauty", "sequence-lines", "table")
"""What may stand before ``:<path>`` to say the format."""

DEFAULT_PRESET = "demo"
"""The preset that plain ``synthetic`` means."""

_DATA_ENDINGS = (".csv", ".tsv", ".parquet", ".pq", ".txt", ".data", ".dat")
_PACKED = {b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf": "a 7z archive"}


def load(
    source: str,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    seed: int = 0,
) -> Interactions:
    """Load a data set by its source string.

    Args:
        source: ``"synthetic"``, ``"synthetic:<preset>"``, ``"<format>:<path>"`` or a path; see the module.
        user_column: Name of the user column of a table, without it an alias.
        item_column: Name of the item column of a table, without it an alias.
        time_column: Name of the time column of a table, without it an alias.
        seed: Seed of the synthetic world; files ignore it.

    Returns:
        Interactions, oldest first within each user.

    Raises:
        InvalidData: The source names nothing that is known, or its content is not what its format says.
    """
    head, colon, rest = source.partition(":")
    world = synthetic_world(source, seed=seed)
    if world is not None:
        return world.interactions(name=f"synthetic-{rest or DEFAULT_PRESET}")
    is_forced = bool(colon) and head in FORMATS
    path = _path(rest if is_forced else source, source=source)
    form, file = (head, path) if is_forced else _detect(path)
    columns = {"user_column": user_column, "item_column": item_column, "time_column": time_column}
    if form == "table":
        # Polars is needed for tables only
        from duet.data.tables import load_table

        return load_table(file, **columns)
    if any(columns.values()):
        raise InvalidData(
            path=file,
            line=None,
            expected="a CSV, TSV or Parquet table, because columns are named",
            received=f"the format {form}",
            remedy="Leave the column names out, or force the format with table:<path>.",
        )
    readers: dict[str, Callable[[Path], Interactions]] = {
        "movielens-100k": load_movielens_100k,
        "movielens-1m": load_movielens_1m,
        "amazon-beauty": lambda path: load_sequence_lines(path, name="amazon-beauty"),
        "sequence-lines": load_sequence_lines,
    }
    return readers[form](file)


def absolute_source(source: str) -> str:
    """Return the source with its path made absolute, so that it means the same from every folder."""
    head, colon, rest = source.partition(":")
    if head in ("synthetic", "digits"):
        return source
    if colon and head in FORMATS and rest:
        return f"{head}:{Path(rest).expanduser().absolute()}"
    return str(Path(source).expanduser().absolute()) if source and not (colon and head in FORMATS) else source


def synthetic_world(source: str, *, seed: int = 0) -> SyntheticWorld | None:
    """Return the world behind a source string, ground truth and all, or None for a source that is real data.

    Raises:
        InvalidData: If the source names a preset that there is not.
    """
    head, _, preset = source.partition(":")
    if head != "synthetic":
        return None
    preset = preset or DEFAULT_PRESET
    if preset not in PRESETS:
        raise InvalidData(
            path=source,
            line=None,
            expected="one of " + ", ".join(f"synthetic:{name}" for name in PRESETS),
            received=f"the preset {preset!r}",
            remedy="Use one of these presets.",
        )
    return SyntheticWorld(replace(PRESETS[preset], seed=seed))


def _path(text: str, *, source: str) -> Path:
    """Read the path of a source; an empty one is refused, because Python takes it for the current folder."""
    if text.strip():
        return Path(text).expanduser()
    raise InvalidData(
        path=source or "the data",
        line=None,
        expected="a file or folder, synthetic, or synthetic:<preset>",
        received="an empty path",
        remedy="Name the data (on the command line: --data); the current folder is '.'.",
    )


def _detect(path: Path) -> tuple[str, Path]:
    """Return the format and the file of a path."""
    if path.is_dir():
        return _detect_folder(path)
    if not path.exists():
        raise InvalidData(
            path=path,
            line=None,
            expected="a file or folder, synthetic, or synthetic:<preset>",
            received="nothing at this path",
            remedy=CHECK_THE_PATH,
        )
    start = read_bytes(path, 65_536)
    for magic, what in _PACKED.items():
        if start.startswith(magic):
            raise _unknown(path, received=what, remedy="Unpack it first and name the file or folder inside.")
    return _detect_file(path, start), path


def _detect_file(path: Path, start: bytes) -> str:
    first = start.decode("utf-8-sig", errors="replace").lstrip().split("\n", 1)[0].rstrip("\r")
    fields = first.split("\t")
    if path.name == "u.data" or (len(fields) == 4 and all(field.isdecimal() for field in fields)):
        return "movielens-100k"
    if "::" in first or (path.name == "sequences.txt" and path.with_name("movies.dat").is_file()):
        return "movielens-1m"
    if start.startswith(b"PAR1") or path.suffix.lower() in (".csv", ".tsv", ".parquet", ".pq"):
        return "table"
    if first.startswith(("{", "[")):
        raise _unknown(path, received="JSON", remedy="Write it as CSV or Parquet.")
    if any(separator in first for separator in ",;\t") and not fields[0].isdecimal():
        return "table"
    if not first or (len(first.split()) > 1 and "\0" not in first):
        return "amazon-beauty" if path.name.lower() == "beauty.txt" else "sequence-lines"
    raise _unknown(path, received=repr(first[:60]), remedy="See docs/data.md, or force a format with <format>:<path>.")


def _detect_folder(path: Path) -> tuple[str, Path]:
    names = {entry.name for entry in path.iterdir() if entry.is_file()}
    if "u.data" in names:
        return "movielens-100k", path / "u.data"
    if "ratings.dat" in names or {"sequences.txt", "movies.dat"} <= names:
        return "movielens-1m", path
    candidates = sorted(name for name in names if name.lower().endswith(_DATA_ENDINGS))
    if len(candidates) == 1:
        return _detect(path / candidates[0])
    raise InvalidData(
        path=path,
        line=None,
        expected="a folder with u.data, ratings.dat, or exactly one data file (" + ", ".join(_DATA_ENDINGS) + ")",
        received=", ".join(candidates) or "no such file",
        remedy="Name the file itself.",
    )


def _unknown(path: Path, *, received: str, remedy: str) -> InvalidData:
    return InvalidData(
        path=path,
        line=None,
        expected="a CSV, TSV or Parquet table, MovieLens files, or lines of 'user item item ...'",
        received=received,
        remedy=remedy,
    )
