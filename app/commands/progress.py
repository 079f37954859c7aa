"""What a person sees while a long command works: a bar for the epoch at hand, a line for each epoch done."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from duet.training.checkpoint import Epoch
    from duet.training.checkpoint import Progress as RunProgress
    from duet.training.loop import Observer


def bar(console: Console) -> Progress:
    """Return a progress bar with counts and remaining time; it shows nothing where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class TrainingProgress:
    """Shows a training run on a console; use it as a context manager."""

    def __init__(self, console: Console, *, every_epoch: bool = True, metric: str = "NDCG@10") -> None:
        self._console, self._every_epoch, self._metric = console, every_epoch, metric
        self._bar = bar(console)
        self._task: TaskID | None = None

    @property
    def observer(self) -> "Observer":
        """What to hand to the training loop."""
        from duet.training.loop import Observer

        return Observer(on_step=self._step, on_epoch=self._epoch)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def _step(self, epoch: int, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, description=f"epoch {epoch}", completed=done, total=total)

    def _epoch(self, epoch: "Epoch", progress: "RunProgress") -> None:
        if not self._every_epoch:
            return
        validation = "  ".join(f"{name} {value:.4f}" for name, value in epoch.validation.items())
        star = " *" if progress.best_epoch == epoch.epoch else ""
        self._console.print(
            f"epoch {epoch.epoch:3}  loss {epoch.loss:.4f}  validation {self._metric}: {validation}{star}  "
            f"({epoch.train_s + epoch.validation_s:.1f} s, {epoch.positions / epoch.train_s:,.0f} positions/s)",
            highlight=False,
            soft_wrap=True,
        )
        if progress.meta_epochs == epoch.epoch:
            self._console.print("The Universal Meta Network is trained. From its best epoch on: the generator.")
