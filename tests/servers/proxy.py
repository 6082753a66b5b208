"""A TCP proxy between a client and a server, to break the network between them."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.servers.ports import HOST, free_port, release_port

T = TypeVar("T")
#: What was read and when it arrives, in the order of reading; b"" is the end of file.
OnTheWay = asyncio.Queue[tuple[float, bytes]]
CHUNK_BYTES = 65_536
#: What a throttled connection lets through at a time. Units: seconds' worth.
SIP_SECONDS = 0.05
#: SO_LINGER with no time to linger: closing sends RST.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scissors:
    """Where to cut: see ``TcpProxy.cut_at``."""

    pattern: bytes
    is_upward: bool
    keep_bytes: int

    def place(self, chunk: bytes, is_upward: bool) -> int | None:
        """How much of this still passes; None when nothing is cut here."""
        found = chunk.find(self.pattern) if is_upward is self.is_upward else -1
        return None if found < 0 else found + self.keep_bytes


class TcpProxy:
    """Runs in a thread of its own from construction to ``close``; every method returns when it has taken effect."""

    def __init__(self, upstream_port: int) -> None:
        self.port = free_port()
        self._upstream_port = upstream_port
        self._latency_seconds = 0.0
        self._bytes_per_second: float | None = None
        self._scissors: Scissors | None = None
        #: Raised by ``strand``: what was open before hears nothing any more.
        self._age = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()
        self._run(self._listen())

    def through(self, url: str) -> str:
        """The same URL, by way of this proxy."""
        parts = urlsplit(url)
        user, separator, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{separator}{HOST}:{self.port}").geturl()

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def pause(self) -> None:
        """The network swallows everything: connections stay open, new ones are accepted, and no byte arrives."""
        self._loop.call_soon_threadsafe(self._flowing.clear)
        self._run(asyncio.sleep(0))

    def resume(self) -> None:
        """What was on its way while paused arrives now."""
        self._loop.call_soon_threadsafe(self._flowing.set)
        self._run(asyncio.sleep(0))

    def cut(self) -> None:
        """Both ends of every connection get a reset."""
        self._run(self._cut())

    def cut_at(self, pattern: bytes, *, is_upward: bool, keep_bytes: int = 0) -> None:
        """Cut the connection on which these bytes pass next, towards the server or from it, and no other.

        Of what was read at once, all before the pattern arrives, and ``keep_bytes`` from its beginning on.
        """
        self._scissors = Scissors(pattern=pattern, is_upward=is_upward, keep_bytes=keep_bytes)

    def has_cut(self) -> bool:
        """Whether what ``cut_at`` asked for has happened."""
        return self._scissors is None

    def strand(self) -> None:
        """Every open connection is half-open: each end believes in it and no byte arrives, nor an end; new ones work.

        As a firewall that forgets its connections leaves them.
        """
        self._age += 1

    def refuse(self, on: bool) -> None:
        """New connections are refused; those that are open stay."""
        self._run(self._unlisten() if on else self._listen())

    def set_latency(self, seconds: float) -> None:
        """Every byte takes this long, in each direction; throughput stays as it is."""
        self._latency_seconds = seconds

    def set_throughput(self, bytes_per_second: float | None) -> None:
        """No connection carries more than so much in either direction; None: as much as there is."""
        self._bytes_per_second = bytes_per_second

    def close(self) -> None:
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
        release_port(self.port)

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port)

    async def _unlisten(self) -> None:
        if self._server is not None:
            self._server.close()  # no wait_closed: from Python 3.12 on it waits for the open connections, too
            self._server = None
            await asyncio.sleep(0)

    async def _cut(self) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _shut_down(self) -> None:
        await self._unlisten()
        await self._cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, as a task, to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with suppress(asyncio.CancelledError):  # cut; asyncio's own callback would log it as an error (3.11)
            await self._carry(reader, writer)
        self._connections.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Both ends are closed together."""
        ends = [writer]
        age = self._age
        try:
            await self._flowing.wait()
            upstream_reader, upstream_writer = await asyncio.open_connection(HOST, self._upstream_port)
            ends.append(upstream_writer)
            async with asyncio.TaskGroup() as directions:
                for source, target in ((reader, upstream_writer), (upstream_reader, writer)):
                    on_the_way = OnTheWay(maxsize=64)
                    directions.create_task(self._collect(source, on_the_way, age))
                    directions.create_task(self._deliver(on_the_way, target, target is upstream_writer, age))
        except* OSError:
            pass  # either end is gone: so is the other, below
        finally:
            for end in ends:
                self._reset(end)

    async def _collect(self, reader: asyncio.StreamReader, on_the_way: OnTheWay, age: int) -> None:
        while True:
            try:
                chunk = await reader.read(CHUNK_BYTES)
            except OSError:
                if age == self._age:
                    raise
                chunk = b""  # reset by this end, of which the other must not hear
            await on_the_way.put((self._loop.time() + self._latency_seconds, chunk))
            if not chunk:
                return

    async def _deliver(
        self, on_the_way: OnTheWay, writer: asyncio.StreamWriter, is_upward: bool, age: int
    ) -> None:
        while True:
            due, chunk = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._flowing.wait()
            if age != self._age:
                await asyncio.Event().wait()  # for ever: until one of the ends gives it up, or it is cut
            if not chunk:
                writer.write_eof()
                return
            place = None if self._scissors is None else self._scissors.place(chunk, is_upward)
            await self._pour(chunk[:place], writer)
            if place is not None:
                self._scissors = None
                raise ConnectionResetError("cut here")

    async def _pour(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        """At the pace that is set, which may be changed meanwhile."""
        while chunk:
            pace = self._bytes_per_second
            size = len(chunk) if pace is None else max(1, int(pace * SIP_SECONDS))
            writer.write(chunk[:size])
            await writer.drain()
            chunk = chunk[size:]
            if pace is not None:
                await asyncio.sleep(SIP_SECONDS)

    @staticmethod
    def _reset(writer: asyncio.StreamWriter) -> None:
        connection: socket.socket | None = writer.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
