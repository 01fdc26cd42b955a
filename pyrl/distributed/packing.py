"""A chunk as one contiguous array of bytes, as long as what is in it: how it travels between machines."""

from __future__ import annotations

import numpy as np

from pyrl.distributed.chunks import Chunk
from pyrl.distributed.shared import ALIGNMENT, Slots

_HEAD = 3  # int64: environment steps that the collector has made; steps with a final observation; episodes


def pack(layout: Slots, chunk: Chunk, collected: int) -> np.ndarray:
    """uint8 [bytes]. ``collected``: environment steps of the collector so far, by its own count."""
    head = np.array([collected, len(getattr(chunk.rollout, "final_step", ())), len(chunk.episodes)])  # transitions have none apart
    fitted = layout.fitted(*head[1:].tolist())
    blob = np.zeros(ALIGNMENT + fitted.size, np.uint8)
    blob[: head.nbytes] = head.view(np.uint8)
    fitted.write(blob[ALIGNMENT:], chunk)
    return blob


def unpack(layout: Slots, blob: np.ndarray, collector: int) -> tuple[Chunk, int]:
    """A chunk whose arrays are those of ``blob``, and what its collector had collected."""
    collected, finals, episodes = blob[: 8 * _HEAD].view(np.int64).tolist()
    return layout.fitted(finals, episodes).read(blob[ALIGNMENT:], collector), collected
