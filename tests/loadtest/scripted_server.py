"""A server on a bare socket that answers each request with the next bytes of a script, as slowly as that says."""

import contextlib
import socket
import threading


def message(status=200, body=b"", headers=b"", length=True):
    """A reply of HTTP/1.1."""
    sized = b"Content-Length: %d\r\n" % len(body) if length else b""
    return b"HTTP/1.1 %d X\r\n%s%s\r\n%s" % (status, sized, headers, body)


class ScriptedServer:
    """Used as a context manager; ``url`` is where it listens.

    Args:
        answer: Called with the number of the request, from 0. Returns what is sent: pieces of bytes, each by itself,
            and events, which are waited for. None, there or instead, hangs up.
    """

    def __init__(self, answer):
        self._answer, self._lock, self.asked = answer, threading.Lock(), 0
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._accepting = threading.Thread(target=self._accept)
        self._serving = []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def connections(self):
        return len(self._serving)

    def __enter__(self):
        self._accepting.start()
        return self

    def __exit__(self, *_):
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *self._serving):
            thread.join(10)
        self._listening.close()

    def _accept(self):
        # until it is shut down
        with contextlib.suppress(OSError):
            while True:
                opened, _ = self._listening.accept()
                self._serving.append(threading.Thread(target=self._serve, args=(opened,)))
                self._serving[-1].start()

    def _serve(self, opened):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # the client hangs up when its run is over
        with opened, contextlib.suppress(OSError):
            while opened.recv(65_536):
                with self._lock:
                    number, self.asked = self.asked, self.asked + 1
                pieces = self._answer(number)
                if pieces is None:
                    return
                for piece in pieces:
                    if piece is None:
                        return
                    if isinstance(piece, bytes):
                        opened.sendall(piece)
                    else:
                        piece.wait(10)
