"""The failures of training with several workers.

Leaves of the tree that ``duet/protocol/errors.py`` draws.
"""

# ruff: noqa: N818  # a failure is called what it is; the base classes already say that they are errors
from pathlib import Path

from duet.protocol.errors import TrainingError

_SHOWN_CHARACTERS = 300


class LostWorkers(TrainingError):
    """Workers died, or failed for a reason that has no name, more often than is put up with."""

    code = "lost_workers"

    def __init__(self, *, workers: int, path: Path | str, epoch: int, reason: str) -> None:
        reason = reason if len(reason) <= _SHOWN_CHARACTERS else f"{reason[: _SHOWN_CHARACTERS - 1]}…"
        super().__init__(
            f"Expected {workers} workers to train to the end, but they were lost again and again, the last time in "
            f"epoch {epoch + 1}: {reason.rstrip('.')}. Nothing but that epoch is lost: give them more memory, or fewer "
            f"of them a core each, and repeat the command to go on in {path}."
        )
        self.workers, self.path, self.epoch, self.reason = workers, str(path), epoch, reason


class TooManyWorkers(TrainingError):
    """More workers were asked for than a run can be shared among."""

    code = "too_many_workers"

    def __init__(self, *, workers: int, schedule: str) -> None:
        super().__init__(
            f"Expected one worker where optimisation.schedule is {schedule}, whose second stage begins with what the "
            f"first has saved; got {workers}. Train it with --workers 1, or jointly."
        )
        self.workers, self.schedule = workers, schedule
