"""A run takes over what another run has already trained: devices fine-tune a static model that may well exist.

Training is a function of configuration, data and seed, so a static run and the static part of a fine-tuned one are the
same, and the second need not be trained.
"""

from collections.abc import Iterable
from pathlib import Path

from duet.training import checkpoint
from duet.training.config import TrainingConfig, difference

_COPIED = (checkpoint.DATA, checkpoint.HISTORY, checkpoint.BEST, checkpoint.LAST, checkpoint.STATE)


def adopt(folder: Path, config: TrainingConfig, others: Iterable[Path]) -> Path | None:
    """Fill an empty run folder, whose lock is held, with a finished run of the same training, if there is one.

    Args:
        folder: The folder of a ``fine-tuned`` run that has not begun.
        config: Its configuration.
        others: Run folders, among which the static run may be.

    Returns:
        The run that was copied; None if there is none, or the folder has begun by itself.
    """
    has_begun = any((folder / name).exists() for name in (checkpoint.LAST, checkpoint.STATE))
    if config.model != "fine-tuned" or has_begun:
        return None
    wanted = config.model_copy(update={"model": "static"})
    for other in others:
        if not (other / checkpoint.CONFIG).is_file() or not checkpoint.read_progress(other).finished:
            continue
        if difference(checkpoint.read_run_config(other), wanted) is None:
            # a copy that is stopped on the way is a run that has not begun, and is made again
            checkpoint.write_atomically(folder / checkpoint.CONFIG, config.to_yaml().encode())
            for name in _COPIED:
                checkpoint.write_atomically(folder / name, (other / name).read_bytes())
            return other
    return None
