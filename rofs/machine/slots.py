# SPDX-License-Identifier: MIT
"""Boots that want to run -> so many at once, the most urgent first, then who came first.

One pool serves all images of a process.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from types import TracebackType
from typing import Self

from rofs.machine.capacity import guests_at_once


class Slots:
    """A pool of `limit` slots, by default as many as the host has room for."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit or guests_at_once()
        self._lock = threading.Lock()
        self._free, self._numbers = self.limit, itertools.count()
        self._waiting: list[tuple[int, int, Place]] = []

    def line_up(self, *urgencies: int) -> list[Place]:
        """A place in the line for each, to be entered by `with`; asked for together, none is late for its turn."""
        with self._lock:
            places = [Place(self, next(self._numbers)) for _ in urgencies]
            for place, urgency in zip(places, urgencies, strict=True):
                self._queue(place, urgency)
            self._grant()
        return places

    def move(self, place: Place, urgency: int | None) -> None:
        """Take away the slot or the turn of `place`; line it up anew, before those who came later, or not (None)."""
        with self._lock:
            if place.granted.is_set():
                place.granted.clear()
                self._free += 1
            self._waiting = [row for row in self._waiting if row[2] is not place]
            heapq.heapify(self._waiting)
            if urgency is not None:
                self._queue(place, urgency)
            self._grant()

    def _queue(self, place: Place, urgency: int) -> None:
        heapq.heappush(self._waiting, (-urgency, place.number, place))

    def _grant(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            heapq.heappop(self._waiting)[2].granted.set()


class Place:
    """A slot, or the wait for it: `with` waits and gives the slot back."""

    def __init__(self, slots: Slots, number: int) -> None:
        self._slots, self.number = slots, number
        self.granted = threading.Event()

    def __enter__(self) -> Self:
        self.granted.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.move(self, None)

    def again(self, urgency: int) -> None:
        """Give the slot to whoever is more urgent, and wait for one; without a pause where nobody is."""
        self._slots.move(self, urgency)
        self.granted.wait()
