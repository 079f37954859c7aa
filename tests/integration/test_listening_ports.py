"""Who lists the sockets that a server listens on sees all of them and no others, whichever program it asks."""

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack

import pytest

from tests.integration.listening_ports import ALL, LOOPBACK, READERS, Listener, Socket, listening

ADDRESSES = [("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET)]
if socket.has_dualstack_ipv6():
    ADDRESSES += [("::1", socket.AF_INET6), ("::", socket.AF_INET6)]


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_sockets_that_listen_are_seen_and_no_others(reader: Callable[[Collection[int]], Iterator[Socket]]) -> None:
    with ExitStack() as stack:
        open_ones = [
            stack.enter_context(socket.create_server((address, 0), family=family, dualstack_ipv6=address == "::"))
            for address, family in ADDRESSES
        ]
        expected = {(os.getpid(), *each.getsockname()[:2]) for each in open_ones}
        client = stack.enter_context(socket.create_connection(open_ones[0].getsockname()))

        found = set(reader([os.getpid()]))

        assert found >= expected
        assert client.getsockname()[1] not in {port for _, _, port in found}
        assert not list(reader([]))
    assert not set(reader([os.getpid()])) & expected


def test_the_processes_below_a_server_belong_to_it() -> None:
    serve = "import socket; each = socket.create_server(({!r}, 0)); print(each.getsockname()[1], flush=True); {}"
    child = [sys.executable, "-c", serve.format("0.0.0.0", "input()")]
    parent = serve.format("127.0.0.1", f"import subprocess; subprocess.run({child!r})")

    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        ports = [int(server.stdout.readline()) for _ in range(2)]
        found = listening(server.pid)
        server.communicate("\n", timeout=30)

    name = os.path.basename(sys.executable)
    assert Counter(found) == Counter([Listener("duet serve", LOOPBACK, ports[0]), Listener(name, ALL, ports[1])])
