"""Minari's data sets (0.5): `from_minari` fills a replay buffer with episodes, `to_minari` writes a buffer's episodes as a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pyrl import buffers
from pyrl.adapters.hosts import imported_for
from pyrl.errors import DTypeError, SettingError
from pyrl.types import Observation, map_observation

with imported_for("minari"):
    from minari import MinariDataset, create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

__all__ = ["from_minari", "to_minari"]


def from_minari(dataset: MinariDataset, *, episodes: Iterable[int] | None = None, buffer: Any = None, **options: Any) -> Any:
    """A `pyrl.buffers.ReplayBuffer` with the episodes of a data set, each observation stored once.

    Args:
        dataset: of `minari.load_dataset`; action spaces must be Box, Discrete, MultiDiscrete or MultiBinary.
        episodes: indices of those to take; all by default.
        buffer: what to add to, of one environment and the data set's spaces; a new buffer by default, in which all of them fit.
        options: of a new buffer: ``n_step``, ``gamma``, ``frame_stack``, ``kind``, ...

    An episode whose last step is neither terminated nor truncated ends as a truncated one: its future was not recorded. Infos are left out.
    """
    if not isinstance(dataset, MinariDataset):
        raise DTypeError(f"from_minari: dataset is a {type(dataset).__name__}, expected a MinariDataset: minari.load_dataset(id)")
    if buffer is not None and options:
        raise SettingError(f"from_minari: {min(options)} is given with buffer, which has it already")
    indices = dataset.episode_indices if episodes is None else np.asarray(list(episodes))
    if unknown := sorted({*indices} - {*dataset.episode_indices}):
        raise SettingError(f"from_minari: episodes has {unknown[0]}, which the data set has not")
    if buffer is None:
        lengths = [data["total_steps"] for data in dataset.storage.get_episode_metadata(indices)]
        slots = max(int(sum(lengths)) + len(lengths), 2)  # an episode's last observation takes one of its own
        buffer = buffers.ReplayBuffer(slots, dataset.observation_space, dataset.action_space, **options)
    elif buffer.num_envs != 1:
        raise SettingError(f"from_minari: buffer has {buffer.num_envs} environments, expected 1")
    for episode in dataset.iterate_episodes(indices):
        if not len(episode):
            continue
        truncated = np.array(episode.truncations, bool)
        truncated[-1] |= not episode.terminations[-1]
        steps = len(episode)
        buffer.extend(
            map_observation(lambda rows, T=steps: _lane(rows[:T]), episode.observations), _lane(episode.actions),
            _lane(np.asarray(episode.rewards, np.float64)),
            map_observation(lambda rows: _lane(rows[1:]), episode.observations),
            _lane(np.asarray(episode.terminations, bool)), _lane(truncated),
        )  # fmt: skip
    return buffer


def to_minari(buffer: Any, dataset_id: str, **metadata: Any) -> MinariDataset:
    """A new data set of the episodes in a `pyrl.buffers.ReplayBuffer`, oldest first in each environment.

    Args:
        buffer: episodes whose beginning is overwritten are left out; one that still runs, or was cut off, is written as truncated. Frames
            are written singly, further columns not at all.
        dataset_id: ``"cartpole/mine-v0"``.
        metadata: of `minari.create_dataset_from_buffers`: ``env``, ``algorithm_name``, ``author``, ``description``, ...

    ValueError if there is no whole episode.
    """
    if not isinstance(buffer, buffers.ReplayBuffer):
        raise DTypeError(f"to_minari: buffer is a {type(buffer).__name__}, expected a pyrl.buffers.ReplayBuffer")
    if not buffer.linked:
        raise SettingError("to_minari: buffer has linked=False, expected one that knows the order of its transitions")
    found = [episode for episode in buffer.episodes() if episode["begins"]]
    if not found:
        raise ValueError("to_minari: buffer has no episode whose beginning is still stored")
    spaces = {"observation_space": buffer.observation_space, "action_space": buffer.action_space}
    rows = [_episode(buffer, number, episode) for number, episode in enumerate(found)]
    return create_dataset_from_buffers(dataset_id, rows, **{**spaces, **metadata})


def _episode(buffer: Any, number: int, episode: dict[str, Any]) -> EpisodeBuffer:
    batch = buffer.get(episode["index"], window=buffers.Window(n_step=1, frame_stack=1))
    observations = map_observation(_with_last, batch.observation, batch.next_observation)
    ends = np.arange(episode["length"]) == episode["length"] - 1
    terminated = episode["ended"] == "terminated"
    return EpisodeBuffer(
        id=number, observations=observations, actions=np.asarray(batch.action), rewards=np.asarray(batch.reward).tolist(),  # type: ignore[arg-type]
        terminations=(ends & terminated).tolist(), truncations=(ends & (not terminated)).tolist(),
    )  # fmt: skip


def _with_last(observation: Observation, following: Observation) -> np.ndarray:
    return np.concatenate((np.asarray(observation), np.asarray(following)[-1:]))


def _lane(rows: Any) -> np.ndarray:
    """[T, ...] as the steps of one environment, [T, 1, ...]."""
    return np.asarray(rows)[:, None]
