"""The record stream as a plain Python list: slow, obvious, and the specification that the C++ core must equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Slot:
    """One record. ``kind`` is "transition", "pending", "tail" or "deleted"."""

    observation: tuple[np.ndarray, ...]  # the leaves
    kind: str
    start: bool = False
    action: Any = None
    reward: float = 0.0
    extra: Any = None
    terminated: bool = False
    truncated: bool = False
    cut: bool = False
    next_observation: tuple[np.ndarray, ...] | None = None  # linked=False only

    @property
    def ends(self) -> bool:
        return self.terminated or self.truncated or self.cut


@dataclass
class Lane:
    """Remembers everything for ever; ``capacity`` only decides what counts as overwritten."""

    capacity: int
    n_step: int
    frame_stack: int
    padding: str
    gamma: float
    linked: bool
    slots: list[Slot | None] = field(default_factory=list)
    origin: int = 0

    def add(
        self, observation: tuple, action: Any, reward: float, next_observation: tuple, terminated: bool, truncated: bool, extra: Any
    ) -> None:
        record = {"action": action, "reward": float(np.float32(reward)), "terminated": terminated, "truncated": truncated, "extra": extra}
        if not self.linked:
            self.slots.append(Slot(observation, "transition", start=True, cut=not truncated, next_observation=next_observation, **record))
            return
        pending = self.slots[-1] if len(self.slots) > self.origin and self.slots[-1].kind == "pending" else None
        if pending is not None and all(a.tobytes() == b.tobytes() for a, b in zip(pending.observation, observation)):
            self.slots[-1] = Slot(observation, "transition", **record)
        else:
            if pending is not None:
                pending.kind = "tail"
                self.slots[-2].cut = True
            self.slots.append(Slot(observation, "transition", start=True, **record))
        self.slots.append(Slot(next_observation, "tail" if terminated or truncated else "pending"))

    def clear(self) -> None:
        while len(self.slots) % self.capacity:
            self.slots.append(None)
        self.origin = len(self.slots)

    def kept(self, p: int) -> bool:
        return self.origin <= p < len(self.slots) and p >= len(self.slots) - self.capacity

    def delete(self, p: int) -> None:
        """The episode of this transition, as far as it is kept; if it still runs, its stream ends."""
        for start, end, _, how in self.episodes():
            if not start <= p < end:
                continue
            for q in range(start, end):
                self.slots[q].kind = "deleted"
            if how is None:
                self.slots[end].kind = "tail"

    def drawable(self, p: int, frame_stack: int | None = None) -> bool:
        """With a stack of so many frames, the buffer's by default; never what the buffer's own stack leaves out."""
        if not self.kept(p) or self.slots[p].kind != "transition":
            return False
        return self.has_history(p, self.frame_stack) and self.has_history(p, frame_stack or 1)

    def has_history(self, p: int, frame_stack: int) -> bool:
        for _ in range(frame_stack - 1):
            if self.slots[p].start:
                return True
            p -= 1
            if not self.kept(p):
                return False
        return True

    def drawables(self) -> list[int]:
        return [p for p in range(max(self.origin, len(self.slots) - self.capacity), len(self.slots)) if self.drawable(p)]

    def stack(self, p: int, leaf: int, frame_stack: int) -> np.ndarray:
        if frame_stack == 1:
            return self.slots[p].observation[leaf]
        frames = [self.slots[p].observation[leaf]]
        while len(frames) < frame_stack:
            if self.slots[p].start:
                frames.insert(0, frames[0] if self.padding == "repeat" else np.zeros_like(frames[0]))
            else:
                p -= 1
                frames.insert(0, self.slots[p].observation[leaf])
        return np.stack(frames)

    def window(self, p: int, n_step: int | None = None, frame_stack: int | None = None) -> dict[str, Any]:
        n_step, frame_stack = n_step or self.n_step, frame_stack or self.frame_stack
        leaves = range(len(self.slots[p].observation))
        reward, k, q = 0.0, 0, p
        while True:
            reward += self.gamma**k * self.slots[q].reward
            k += 1
            if k == n_step or self.slots[q].ends or self.slots[q + 1].kind != "transition":
                break
            q += 1
        first, last = self.slots[p], self.slots[q]
        after = first.next_observation if not self.linked else tuple(self.stack(q + 1, i, frame_stack) for i in leaves)
        return {
            "observation": tuple(self.stack(p, i, frame_stack) for i in leaves),
            "next_observation": after,
            "action": first.action,
            "extra": first.extra,
            "reward": np.float32(reward),
            "terminated": last.terminated,
            "discount": np.float32(0.0 if last.terminated else self.gamma**k),
        }

    def episodes(self) -> list[tuple[int, int, bool, str | None]]:
        """(first position, one past the last, beginning kept, how it ended) of what is still in the ring."""
        found: list[list[Any]] = []
        open_ = False
        for p in range(max(self.origin, len(self.slots) - self.capacity), len(self.slots)):
            slot = self.slots[p]
            if slot.kind != "transition":
                open_ = False
                continue
            if not open_ or slot.start:
                found.append([p, p, slot.start, None])
            found[-1][1] = p + 1
            found[-1][3] = "terminated" if slot.terminated else "truncated" if slot.truncated else "cut" if slot.cut else None
            open_ = not slot.ends
        return [tuple(e) for e in found]
