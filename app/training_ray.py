"""A Ray of its own for ``duet train --workers``: on this machine only, quiet, and gone when the block is left."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from app.ending import exported, handle, interrupt, restore, stop_ray
from app.ray_token import prepare_token

_OBJECT_STORE_BYTES = 256 * 2**20
_VARIABLES = {
    # all of Ray listens on the loopback interface, and so do the workers that add their gradients up
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
    # nobody announces the end of this machine
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # each worker imports torch first, and a machine may have few cores for many of them
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}


@contextmanager
def training_ray(workers: int) -> Iterator[None]:
    """Start Ray with room for some workers, and stop it however the block ends.

    Ray reads its variables when it is imported, so nobody may have done that before.

    Args:
        workers: How many; more than there are cores share them.
    """
    with ExitStack() as started:
        started.callback(restore, handle(interrupt))
        started.enter_context(exported(_VARIABLES))
        prepare_token(os.environ)
        import ray

        started.callback(stop_ray)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        ray.init(
            address="local",  # a Ray of its own, also where RAY_ADDRESS names another one
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
        )
        # Ray sets a handler of its own, which ends the process without stopping what it has started
        signal.signal(signal.SIGTERM, on_sigterm)
        yield
