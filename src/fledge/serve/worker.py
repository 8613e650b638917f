"""The one thread that computes. It drives every live engine, a step of each in turn, and hands what is new to the
event loop in one call a step; requests and cancellations reach it through a queue."""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fledge.core.device import release_heap
from fledge.core.errors import FledgeError
from fledge.generate.live import LiveEngine
from fledge.generate.request import Request, Update
from fledge.serve.errors import as_api_error

REST = 2.0  # seconds without anything to do


class Stream:
    """The updates of one or several requests, as they come: `async for index, update in stream`."""

    def __init__(self, worker: "Worker", engine: LiveEngine, count: int) -> None:
        self.worker, self.engine, self.open, self.count = worker, engine, count, count
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, Update] | Exception] = asyncio.Queue()
        self.tickets: dict[int, int] = {}  # of the worker's thread
        self.held: tuple[int, Update] | None = None
        self.over: set[int] = set()
        self.cut = False  # cancelled before its end
        self.on_update: Callable[[Update], None] = lambda update: None
        self.timer: asyncio.TimerHandle | None = None

    async def ready(self) -> None:
        """Wait for the first update; it stays to be read."""
        if self.held is None:
            self.held = await self._next()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Update]]:
        while self.open:
            item, self.held = self.held or await self._next(), None
            if item[1].finish:
                self.over.add(item[0])
                self.open -= 1
            self.on_update(item[1])
            yield item
        if self.timer:
            self.timer.cancel()

    async def _next(self) -> tuple[int, Update]:
        item = await self.queue.get()
        if isinstance(item, Exception):
            raise as_api_error(item) from item
        return item

    def expire_in(self, seconds: float) -> None:
        """End what is not over by then, as if it had reached its length."""
        self.timer = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self.worker.do(lambda: self.worker.drop(self))
        for index in range(self.count):
            if index not in self.over:
                self.queue.put_nowait((index, Update(0, finish="length")))

    def cancel(self) -> None:
        """Stop computing what nobody waits for."""
        if self.timer:
            self.timer.cancel()
        if self.open:
            self.open, self.cut = 0, True
            self.worker.do(lambda: self.worker.drop(self))


class Worker:
    """Computes for all engines in a thread of its own, from `start` to `stop`."""

    def __init__(self) -> None:
        self.commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.streams: dict[LiveEngine, dict[int, tuple[Stream, int]]] = {}
        self.thread = threading.Thread(target=self._run, name="fledge-worker", daemon=True)
        self.stopping = self.rested = False

    def start(self) -> None:
        """Begin to compute."""
        self.thread.start()

    def stop(self) -> None:
        """Finish the step in hand and end."""
        self.do(self._stop)
        self.thread.join()

    def do(self, command: Callable[[], None]) -> None:
        """Have the thread call `command` between two steps."""
        self.commands.put(command)

    async def call(self, function: Callable[[], Any]) -> Any:
        """What `function` returns when the thread calls it between two steps."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if not future.cancelled():
                future.set_exception(error) if error else future.set_result(result)

        def command() -> None:
            try:
                result, error = function(), None
            except Exception as failure:
                result, error = None, failure
            loop.call_soon_threadsafe(settle, result, error)

        self.do(command)
        return await future

    def submit(self, engine: LiveEngine, requests: Sequence[Request], client: str = "") -> Stream:
        """Queue requests on an engine. Raises FledgeError for what it can never serve."""
        for request in requests:
            engine.check(request)
        stream = Stream(self, engine, len(requests))

        def command() -> None:
            for index, request in enumerate(requests):
                try:
                    ticket = engine.submit(request, client)
                except FledgeError as error:
                    post(stream, error)
                    return
                stream.tickets[ticket] = index
                self.streams.setdefault(engine, {})[ticket] = (stream, index)

        self.do(command)
        return stream

    def drop(self, stream: Stream) -> None:
        """Cancel a stream's requests (in the worker's thread)."""
        for ticket in stream.tickets:
            if self.streams.get(stream.engine, {}).pop(ticket, None):
                stream.engine.cancel(ticket)

    def _stop(self) -> None:
        self.stopping = True

    def _run(self) -> None:
        while not self.stopping:
            busy = [engine for engine in self.streams if engine.busy]
            self._obey(wait=not busy)
            for engine in busy:
                self._step(engine)
            for engine in [engine for engine, streams in self.streams.items() if not streams and not engine.busy]:
                del self.streams[engine]

    def _obey(self, wait: bool) -> None:
        """Do what was asked for. When nothing is for a while, memory that a burst of requests left goes back."""
        try:
            command = self.commands.get(wait, None if self.rested else REST)
        except queue.Empty:
            if wait:
                release_heap()
                self.rested = True
            return
        self.rested = False
        with contextlib.suppress(queue.Empty):
            while True:
                command()
                command = self.commands.get_nowait()

    def _step(self, engine: LiveEngine) -> None:
        streams = self.streams.get(engine, {})
        try:
            updates = engine.step()
        except Exception as error:  # whatever it is, those who wait must hear of it, and the server goes on
            logging.getLogger("fledge.serve").exception("a step failed; its requests were ended")
            for ticket, (stream, _) in streams.items():
                engine.cancel(ticket)
                post(stream, error)
            streams.clear()
            return
        batches: dict[asyncio.AbstractEventLoop, list[tuple[Stream, int, Update]]] = {}
        for update in updates:
            found = streams.pop(update.ticket, None) if update.finish else streams.get(update.ticket)
            if found:
                batches.setdefault(found[0].loop, []).append((*found, update))
        for loop, batch in batches.items():
            with contextlib.suppress(RuntimeError):  # the loop may have closed
                loop.call_soon_threadsafe(deliver, batch)


def deliver(batch: list[tuple[Stream, int, Update]]) -> None:
    """Put updates into their streams (in the event loop's thread)."""
    for stream, index, update in batch:
        stream.queue.put_nowait((index, update))


def post(stream: Stream, error: Exception) -> None:
    """Tell a stream that it failed (from the worker's thread)."""
    with contextlib.suppress(RuntimeError):
        stream.loop.call_soon_threadsafe(stream.queue.put_nowait, error)
