"""Who waits for whom when a node has fewer free cores than processes that want one: what watches, for what serves.

Ray's agent, which collects metrics, and Ray Serve's controller, which looks after replicas, take a few per cent of a
core, in bursts of many milliseconds. Where a replica fills its core each burst is a pause of every request in it.
"""

import os
from contextlib import suppress

import psutil

WATCHERS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::ServeController")
"""What a node's raylet starts beside the replicas, as they call themselves."""

STEP_BACK = 15
"""Their niceness: about 3 % of a core that a replica wants whole, and all of what it leaves."""


def let_watchers_wait() -> None:
    """Have the watchers that run beside this replica step behind it, if they do not yet; needs no privilege."""
    for process in psutil.Process(os.getppid()).children():
        # one that has just ended, or that belongs to another user, is left alone; so is a thread of the kind
        with suppress(psutil.Error):
            if not " ".join(process.cmdline()).startswith(WATCHERS):
                continue
            for thread in process.threads():  # on Linux each thread has its own
                with suppress(OSError):
                    if os.getpriority(os.PRIO_PROCESS, thread.id) < STEP_BACK:
                        os.setpriority(os.PRIO_PROCESS, thread.id, STEP_BACK)
