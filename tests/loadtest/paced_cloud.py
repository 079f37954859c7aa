"""A cloud over real HTTP that takes a stated time for a batch and forms batches as a replica does: when it is free."""

import asyncio
import json
import threading

from tests.loadtest.scripted_server import message
from tests.loadtest.serving_fake import answer, manifest_bytes


class PacedCloud(threading.Thread):
    """Used as a context manager; ``url`` is where it listens.

    Args:
        batch_ms: What a batch takes however small.
        request_ms: What each request adds.
    """

    def __init__(self, batch_ms, request_ms, max_batch=64):
        super().__init__()
        self._cost_s = lambda size: (batch_ms + request_ms * size) / 1000
        self._max_batch, self._waiting, self.batches = max_batch, asyncio.Queue(), []
        self._loop, self._listens, self.url = asyncio.new_event_loop(), threading.Event(), None

    def run(self):
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self):
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=500)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        worker = asyncio.create_task(self._work())
        self._listens.set()
        await self._end.wait()
        worker.cancel()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _work(self):
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._max_batch and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            self.batches.append(len(batch))
            worked = asyncio.Event()
            self._loop.call_later(self._cost_s(len(batch)), worked.set)
            await worked.wait()
            for done in batch:
                done.set_result(None)

    async def _connection(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if head.startswith("get"):
                    writer.write(message(200, manifest_bytes()))
                    continue
                asked = json.loads(await reader.readexactly(int(head.split("content-length: ")[1].split()[0])))
                done = self._loop.create_future()
                self._waiting.put_nowait(done)
                status, headers, body = answer(asked["sample"])
                await done
                lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
                writer.write(message(status, body, lines))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has hung up
        finally:
            writer.close()

    def __enter__(self):
        self.start()
        assert self._listens.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self.join(10)
