"""Keeps Python's garbage collector from walking, again and again, over what lives as long as the process.

With the libraries and the versions of a replica loaded, a full collection looks at some 300,000 objects and stops every
thread for 100 ms and more, several times a second under load. Frozen, they are looked at never again. What requests
under way hold is young and alive: where a hundred of them wait, looking at it every 700 objects takes 3 to 4 % of the
time.
"""

import gc

_YOUNG = 20_000
"""Objects between two looks at the young ones; Python's own number is 700."""

_is_serving = False


def serve_from_here() -> None:
    """Freeze what this process has loaded, and from now on whatever it loads."""
    global _is_serving
    _is_serving = True
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    settle()


def settle() -> None:
    """Freeze what has been loaded, in a process that serves: elsewhere the collector goes on as it is."""
    if _is_serving:
        gc.collect()  # what is garbage now would stay for ever
        gc.freeze()
