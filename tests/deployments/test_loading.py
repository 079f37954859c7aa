"""Loading steps back for what serves: a lower priority of its own thread, and a lock that is handed over soon."""

import os
import subprocess
import sys
import threading

import pytest

from deployments.loading import VersionLoader


def nice_of_this_thread() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.parametrize(("intra_op_threads", "expected"), [(1, 5), (2, 0)])
async def test_the_thread_steps_back_unless_sessions_would_inherit_it(intra_op_threads: int, expected: int) -> None:
    usual = nice_of_this_thread()

    loading = await VersionLoader(intra_op_threads=intra_op_threads).run(nice_of_this_thread)

    # only on Linux is a priority that of a thread
    assert loading - usual == (expected if sys.platform == "linux" else 0)
    assert nice_of_this_thread() == usual


LOADS_OF_A_PROCESS = """
import sys, threading
from deployments.loading import VersionLoader

usual = sys.getswitchinterval()
first, second = VersionLoader(), VersionLoader()
entered, may_end = threading.Event(), threading.Event()

def load():
    entered.set()
    assert may_end.wait(60)

slow = first.submit(load)
assert entered.wait(60)
inside = second.submit(sys.getswitchinterval).result(60)
while_the_other_loads = sys.getswitchinterval()
broken = second.submit(divmod, 1, 0)
may_end.set()
slow.result(60)
assert isinstance(broken.exception(60), ZeroDivisionError)
print(usual, inside, while_the_other_loads, sys.getswitchinterval())
"""


def test_the_interpreter_hands_over_soon_while_something_is_loaded_and_as_usual_after_that() -> None:
    # a process of its own: the interval is the interpreter's, and loads that other tests left behind change it too
    printed = subprocess.run(
        [sys.executable, "-c", LOADS_OF_A_PROCESS], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    usual, inside, while_the_other_loads, after = map(float, printed.split())

    assert inside == pytest.approx(0.0005)
    assert while_the_other_loads == pytest.approx(0.0005)
    assert after == usual == pytest.approx(0.005)


async def test_what_cannot_be_loaded_is_told_to_who_asked() -> None:
    with pytest.raises(ZeroDivisionError):
        await VersionLoader().run(divmod, 1, 0)
