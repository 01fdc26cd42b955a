"""Which episodes are in the buffer, and in which lane each one grows."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class Episode:
    """One that is stored, whole or what came of it so far."""

    serial: int
    id: str
    agent: Any
    module: Any
    t: int  # time of the next step
    lane: int | None = None  # where it grows; None once it has ended, or was cut
    ended: bool = False
    newest: list[int] = field(default_factory=list)  # the index of the newest step of each piece that it was cut into

    @property
    def id_(self) -> str:
        """Its id by the host's name."""
        return self.id


@dataclass(slots=True, eq=False)
class Lane:
    running: Episode | None = None
    cut: Episode | None = None  # that the running one took the lane from, before it had ended
    used: int = -1  # the position of its newest step
    touched: int = 0  # when a step was added last
    starts: deque[tuple[Episode, int]] = field(
        default_factory=deque
    )  # episodes in it, oldest first, with the position of their first step here


class Table:
    """Episodes by age and by id, and lanes; it moves no data."""

    def __init__(self, lanes: int) -> None:
        self.lanes = [Lane() for _ in range(lanes)]
        self.by_serial: OrderedDict[int, Episode] = OrderedDict()
        self.by_id: dict[str, Episode] = {}
        self.serial = self.clock = 0

    def __len__(self) -> int:
        return len(self.by_serial)

    def open(self, id: str, agent: Any, module: Any, t: int) -> Episode:
        episode = Episode(self.serial, id, agent, module, t)
        self.by_serial[self.serial] = self.by_id[id] = episode
        self.serial += 1
        return episode

    def place(self, episode: Episode, taken: set[int]) -> bool:
        """Give an episode a lane outside of those ``taken``: the emptiest that is free, else the one whose episode has been quiet longest,
        which is cut there. False if there is none, or if one of those taken may come free."""
        candidates = [lane for at, lane in enumerate(self.lanes) if at not in taken]
        if not candidates:
            return False
        free = [lane for lane in candidates if lane.running is None]
        if taken and not free:
            return False
        chosen = min(free, key=lambda lane: lane.used) if free else min(candidates, key=lambda lane: lane.touched)
        if chosen.running is not None:
            chosen.running.lane, chosen.cut = None, chosen.running
        chosen.running, episode.lane = episode, self.lanes.index(chosen)
        return True

    def forget(self, episode: Episode) -> None:
        del self.by_serial[episode.serial], self.by_id[episode.id]
        if episode.lane is not None:
            self.lanes[episode.lane].running = None

    def oldest_in(self, lane: int) -> tuple[Episode, int] | None:
        """The oldest episode that still has steps in a lane, and the position of the first."""
        starts = self.lanes[lane].starts
        while starts and starts[0][0].serial not in self.by_serial:
            starts.popleft()
        return starts[0] if starts else None
