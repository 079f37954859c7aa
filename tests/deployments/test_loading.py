"""Loading steps back for what serves: a lower priority of its own thread, and a lock that is handed over soon."""

import os
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


async def test_the_interpreter_hands_over_soon_while_something_is_loaded_and_as_usual_after_that() -> None:
    usual = sys.getswitchinterval()
    first, second = VersionLoader(), VersionLoader()
    may_end = threading.Event()

    def load(waits: bool) -> float:
        if waits:
            may_end.wait(10)
        return sys.getswitchinterval()

    slow = first.submit(load, waits=True)
    inside = await second.run(load, waits=False)
    while_the_other_loads = sys.getswitchinterval()
    may_end.set()
    slow.result(10)

    assert inside == pytest.approx(0.0005)
    assert while_the_other_loads == pytest.approx(0.0005)
    assert sys.getswitchinterval() == pytest.approx(usual)


async def test_what_cannot_be_loaded_is_told_to_who_asked() -> None:
    usual = sys.getswitchinterval()

    with pytest.raises(ZeroDivisionError):
        await VersionLoader().run(divmod, 1, 0)

    assert sys.getswitchinterval() == pytest.approx(usual)
