"""The host's episodes as columns of steps, and drawn transitions as the host's episodes of one step."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space

from pyrl.adapters.columns import column_space
from pyrl.errors import DTypeError, NonFiniteError, SettingError, ShapeError, SpaceError
from pyrl.types import map_observation


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What is stored of an episode or a piece of one: T steps."""

    source: SingleAgentEpisode
    observation: Any  # [T + 1, ...], arrays in the observation's structure
    action: np.ndarray  # [T, ...]
    reward: np.ndarray  # float32 [T]
    infos: list[Any]  # T + 1 dicts, or none

    def __len__(self) -> int:
        return len(self.reward)


def steps_of(episode: Any, with_infos: bool) -> Steps:
    """DTypeError, ShapeError or NonFiniteError for what cannot be stored."""
    if not isinstance(episode, SingleAgentEpisode):
        raise DTypeError(f"add: episodes has a {type(episode).__name__}, expected SingleAgentEpisode (one agent)")
    observation, action = _stacked(episode.get_observations()), _stacked(episode.get_actions())
    if not isinstance(action, np.ndarray):
        raise SpaceError(f"add: episodes have actions of the structure {type(action).__name__}, expected one array a step")
    with np.errstate(over="ignore"):
        reward = np.asarray(episode.get_rewards(), np.float64).astype(np.float32)
    if reward.shape != (len(episode),):
        raise ShapeError(f"add: episode {episode.id_}: rewards have shape {list(reward.shape)}, expected [{len(episode)}]")
    if not np.isfinite(reward).all():
        at = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise NonFiniteError(f"add: episode {episode.id_}: reward {at} is {reward[at]}, expected a finite number in float32")
    return Steps(episode, observation, action, reward, list(episode.get_infos()) if with_infos else [])


def _stacked(rows: Any) -> Any:
    """A list of rows, or arrays of them, as arrays in the structure of a row."""
    if not isinstance(rows, list):
        return map_observation(np.asarray, rows)
    if isinstance(rows[0], dict):
        return {key: _stacked([row[key] for row in rows]) for key in rows[0]}
    if isinstance(rows[0], tuple):
        return tuple(_stacked(list(column)) for column in zip(*rows))
    return np.asarray(rows)


def space_of(name: str, rows: Any) -> spaces.Space:
    """The space of columns like these: their shapes, dtypes and structure."""
    if isinstance(rows, dict):
        return spaces.Dict({key: space_of(f"{name}[{key!r}]", column) for key, column in rows.items()})
    if isinstance(rows, tuple):
        return spaces.Tuple([space_of(f"{name}[{at}]", column) for at, column in enumerate(rows)])
    if rows.dtype.kind not in "biuf":
        raise SpaceError(f"add: episodes have {name} of dtype {rows.dtype}, expected numbers of fixed shape")
    return column_space(rows.shape[1:], rows.dtype)


def fitted(episode: SingleAgentEpisode, name: str, rows: Any, space: Any) -> Any:
    """These rows in the shapes and dtypes of a column's space; ShapeError, DTypeError or ValueError if they are not of it."""
    where = f"add: episode {episode.id_}: {name}"
    if isinstance(space, spaces.Dict):
        if not isinstance(rows, dict) or rows.keys() != space.spaces.keys():
            found = sorted(rows) if isinstance(rows, dict) else type(rows).__name__
            raise ShapeError(f"{where} have entries {found}, expected {sorted(space.spaces)}, as the first")
        return {key: fitted(episode, f"{name}[{key!r}]", rows[key], child) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(rows, tuple) or len(rows) != len(space.spaces):
            raise ShapeError(f"{where} are not tuples of {len(space.spaces)} entries, as the first")
        return tuple(fitted(episode, f"{name}[{at}]", column, child) for at, (column, child) in enumerate(zip(rows, space.spaces)))
    if not isinstance(rows, np.ndarray) or rows.shape[1:] != space.shape:
        found = list(rows.shape[1:]) if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ShapeError(f"{where} have shape {found} a step, expected {list(space.shape)}, as the first")
    if rows.dtype == space.dtype:
        return rows
    if not (np.can_cast(rows.dtype, space.dtype, "same_kind") or {rows.dtype.kind, space.dtype.kind} <= set("iu")):
        raise DTypeError(f"{where} have dtype {rows.dtype}, expected {space.dtype}, as the first")
    cast = rows.astype(space.dtype)
    if space.dtype.kind in "iu" and not np.array_equal(cast, rows):
        raise ValueError(f"{where} have values that {space.dtype}, the dtype of the first, does not hold")
    return cast


class NoInfos(InfiniteLookbackBuffer):
    """Stands for the infos of a drawn transition where none are stored."""

    def __init__(self) -> None:
        super().__init__([{}, {}])

    def get(self, *arguments: Any, **options: Any) -> Any:
        raise SettingError('infos are not stored; give replay_buffer_config "store_infos": True')


_NO_INFOS = NoInfos()


def _rows(data: list[Any], space: Any = None, struct: Any = None) -> InfiniteLookbackBuffer:
    """What the host's constructor makes of these rows; it takes three times as long."""
    rows = InfiniteLookbackBuffer.__new__(InfiniteLookbackBuffer)
    rows.data, rows.lookback, rows.finalized, rows._space, rows._space_struct = data, 0, False, space, struct
    return rows


@contextmanager
def collected_later() -> Iterator[None]:
    """No garbage collection in between: of thousands of objects that all live on it finds nothing, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Writer:
    """Makes the host's episodes of transitions: one step each, two observations."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        """The spaces that the host's episodes carry; None where they have none."""
        self._observation_space, self._action_space = observation_space, action_space
        self._structs = get_base_struct_from_space(observation_space), get_base_struct_from_space(action_space)

    def write(self, **columns: Any) -> list[SingleAgentEpisode]:
        """Columns [B, ...] by name, in the order of `_write`; observations in their structure."""
        with collected_later():
            return [self._write(row, *values) for row, values in enumerate(zip(*map(each, columns.values())))]

    def _write(
        self,
        row: int,
        observation: Any,
        action: Any,
        reward: Any,
        next_observation: Any,
        terminated: bool,
        truncated: bool,
        n_step: int,
        weight: Any,
        t: int,
        source: Any,
        infos: Any,
        outputs: Any,
    ) -> SingleAgentEpisode:
        """`SingleAgentEpisode.__init__` without its checks, which take longer than a draw: every slot of it, once."""
        made = SingleAgentEpisode.__new__(SingleAgentEpisode)
        # The learner's connectors collect rows by id, so it is distinct within a batch.
        made.id_, made.agent_id, made.module_id, made.multi_agent_episode_id = f"{source.id}_{row}", source.agent, source.module, None
        made._observation_space, made._action_space = self._observation_space, self._action_space
        made.observations = _rows([observation, next_observation], self._observation_space, self._structs[0])
        made.actions = _rows([action], self._action_space, self._structs[1])
        made.rewards = _rows([reward], _REWARD_SPACE, _REWARD_SPACE)
        made.infos = _NO_INFOS if infos is None else _rows(infos)
        made.extra_model_outputs = {"weights": _rows([weight]), "n_step": _rows([n_step])}
        if outputs:
            made.extra_model_outputs |= {name: _rows([value]) for name, value in outputs.items()}
        made.is_terminated, made.is_truncated = terminated, truncated
        made.t_started, made.t = t, t + 1
        made._custom_data = {}
        made._start_time = made._last_step_time = made._last_added_observation = made._last_added_infos = None
        return made


_REWARD_SPACE = SingleAgentEpisode().rewards.space


def each(column: Any) -> list[Any]:
    """The rows of a column, of a dict's or tuple's as such."""
    if isinstance(column, dict):
        return [dict(zip(column, row)) for row in zip(*map(each, column.values()))]
    if isinstance(column, tuple):
        return list(zip(*map(each, column)))
    if isinstance(column, np.ndarray) and column.dtype == np.bool_ and column.ndim == 1:
        return column.tolist()
    return list(column)
