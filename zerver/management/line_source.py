"""Lines of a file, a pipe or a terminal, as they come."""

import io
import os
import select
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

#: Whoever has written nothing for so long is waited for no more: what has come goes on its way.
PAUSE_SECONDS = 0.2
_READ_BYTES = 1 << 16


class LineSource:
    """Hands out lines in batches, and knows how many it has read and not handed out."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines: list[bytes] = []
        #: The beginning of a line whose end has not come.
        self._rest = bytearray()

    @property
    def in_hand(self) -> int:
        """Lines that were read and not handed out, one that has only begun included."""
        return len(self._lines) + bool(self._rest)

    def batches(self, most: int) -> Iterator[list[bytes]]:
        """At most so many lines each; fewer at the end, and where nothing more comes for a moment."""
        try:
            descriptor = self._file.fileno()
        except io.UnsupportedOperation:
            # In memory: everything is there.
            while batch := list(islice(self._file, most)):
                yield batch
            return
        while True:
            pause = PAUSE_SECONDS if self._lines else None
            if not select.select([descriptor], [], [], pause)[0]:
                yield self._taken(most)
                continue
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                break
            self._add(data)
            while len(self._lines) >= most:
                yield self._taken(most)
        if self._rest:
            self._lines.append(bytes(self._rest))
            self._rest.clear()
        if self._lines:
            yield self._taken(most)

    def _add(self, data: bytes) -> None:
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._lines.append(bytes(self._rest) + end + b"\n")
            self._rest.clear()
        self._rest += rest

    def _taken(self, most: int) -> list[bytes]:
        taken, self._lines = self._lines[:most], self._lines[most:]
        return taken
