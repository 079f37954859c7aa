"""Waits for what another process does by itself, and no longer than it takes."""

import threading
import time
from collections.abc import Callable

_PAUSE_S = 0.02


def wait_until(is_true: Callable[[], object], what: str, *, patience_s: float = 60) -> None:
    """Return as soon as something holds; fail with ``what`` it was if it never does."""
    deadline_s, nothing = time.monotonic() + patience_s, threading.Event()
    while not is_true():
        assert time.monotonic() < deadline_s, f"{what} within {patience_s:g} s"
        nothing.wait(_PAUSE_S)
