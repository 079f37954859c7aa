"""What a run of the benchmark leaves: rows of a CSV file, each with its hardware, versions and commit."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

import torch

from benchmarks.kernels.case import Case
from benchmarks.kernels.timing import Timing
from duet.evaluation.provenance import provenance
from duet.training.checkpoint import write_atomically

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Place:
    """Where a run happens, and what the accelerator there can do at most.

    Attributes:
        threads: Of one operation on the host.
        host: Processor and cores.
        accelerator: Its name, or "none".
        torch_version: Of PyTorch.
        triton_version: Of Triton, or "not installed".
        commit: Of the code.
        copy_gb_s: Bandwidth of a copy in the same run, GB/s; None on a host.
        issue_rate: Instructions a second, a thread each; None on a host.
    """

    threads: int
    host: str
    accelerator: str
    torch_version: str
    triton_version: str
    commit: str
    copy_gb_s: float | None = None
    issue_rate: float | None = None

    @classmethod
    def here(
        cls, device: torch.device, threads: int, *, copy_gb_s: float | None = None, issue_rate: float | None = None
    ) -> Self:
        """Describe this machine."""
        known = provenance()
        try:
            triton = version("triton")
        except PackageNotFoundError:
            triton = "not installed"
        accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
        return cls(
            threads,
            str(known["hardware"]),
            accelerator,
            torch.__version__,
            triton,
            str(known["commit"]),
            copy_gb_s,
            issue_rate,
        )


@dataclass(frozen=True)
class Row:
    """One contender of one case as it stands in the file; B is the number of rows N for apply_low_rank."""

    operation: str
    case: str
    contender: str
    B: str
    median_us: str
    low_us: str
    high_us: str
    ratio_to_ours: str
    gb_s: str
    share_of_copy: str
    copy_gb_s: str
    issue_limit_gb_s: str
    launches: str
    threads: str
    host: str
    accelerator: str
    torch: str
    triton: str
    commit: str


COLUMNS = tuple(field.name for field in fields(Row))


def rows_of(case: Case, timings: Mapping[str, Timing | str], place: Place) -> Iterator[Row]:
    """Yield a row a contender; what only an accelerator shows is "not measured" on a host."""
    limit = (
        case.bytes_moved / case.instructions * place.issue_rate / 1e9
        if case.instructions and place.issue_rate
        else None
    )
    for contender, timing in timings.items():
        facts: dict[str, str] = {"ratio_to_ours": str(timing)} | dict.fromkeys(
            ("median_us", "low_us", "high_us"), str(timing)
        )
        gb_s = None
        if isinstance(timing, Timing):
            gb_s = case.bytes_moved / timing.median_us / 1e3 if place.copy_gb_s else None
            facts = {name: f"{getattr(timing, name):.2f}" for name in ("median_us", "low_us", "high_us")}
            facts["ratio_to_ours"] = f"{timing.ratio:.3f}"
        yield Row(
            operation=case.operation,
            case=case.name,
            contender=contender,
            B=str(case.batch),
            **facts,
            gb_s=_number(gb_s, ".1f"),
            share_of_copy=_number(gb_s and place.copy_gb_s and gb_s / place.copy_gb_s, ".3f"),
            copy_gb_s=_number(place.copy_gb_s, ".1f"),
            issue_limit_gb_s=_number(limit, ".1f"),
            launches=_number(timing.launches if isinstance(timing, Timing) else None, "d"),
            threads=str(place.threads),
            host=place.host,
            accelerator=place.accelerator,
            torch=place.torch_version,
            triton=place.triton_version,
            commit=place.commit,
        )


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a file, which is replaced in one step.

    Raises:
        ValueError: If there is a file of other columns.
    """
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before and before.splitlines()[0] != ",".join(COLUMNS):
        raise ValueError(f"Expected the columns {','.join(COLUMNS)} in {path}, got {before.splitlines()[0]!r:.200}.")
    added = io.StringIO()
    writer = csv.DictWriter(added, COLUMNS, lineterminator="\n")
    if not before:
        writer.writeheader()
    writer.writerows(map(asdict, rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (before + added.getvalue()).encode())


def _number(value: float | None, form: str) -> str:
    return NOT_MEASURED if value is None else format(value, form)
