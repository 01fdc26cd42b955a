"""Storage of one rollout: T steps of N environments, written row by row, handed out whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyrl.buffers.pickling import Pickled, pickled
from pyrl.buffers.replay import flat_leaves, nested_leaves
from pyrl.errors import DTypeError, NonFiniteError, ShapeError
from pyrl.ops.rollouts import RolloutRows
from pyrl.spaces import check_observation_space
from pyrl.spaces.actions import Actions
from pyrl.trees import zeros_for
from pyrl.types import Array, Observation, Rollout, StepResult, StepRows, map_observation


@pickled
class RolloutBuffer(Pickled):
    """``num_steps`` rows of ``num_envs`` environments, allocated once.

    The arrays of the `Rollout` are the buffer's own: they are valid until the next ``add``. Each observation is stored once,
    plus the final ones of truncated episodes, the only ones beside row T whose value is needed.

    ``extra``: the further columns of every row, ``{"log_prob": ((), "float32")}``, shape of one row and dtype; None takes those of the
    first `add`.
    """

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        observation_space: Any,
        action_space: Any,
        extra: Mapping[str, tuple[tuple[int, ...], Any]] | None = None,
    ) -> None:
        if num_steps < 1 or num_envs < 1:
            raise ValueError(f"RolloutBuffer: num_steps is {num_steps} and num_envs {num_envs}, expected at least 1 each")
        check_observation_space(observation_space, "RolloutBuffer")
        self.num_steps, self.num_envs = num_steps, num_envs
        self.observation_space, self.action_space = observation_space, action_space
        self._observation = zeros_for(observation_space, num_steps + 1, num_envs)
        self._action = zeros_for(Actions(action_space, "RolloutBuffer").stored, num_steps, num_envs)
        self._reward = np.zeros((num_steps, num_envs), np.float32)
        self._terminated, self._truncated, self._valid = (np.zeros((num_steps, num_envs), bool) for _ in range(3))
        self._first = np.zeros((num_steps + 1, num_envs), bool)
        self._mask: np.ndarray | None = None  # of the environments that give masks
        self._declared = None if extra is None else {name: (tuple(shape), np.dtype(dtype).name) for name, (shape, dtype) in extra.items()}
        self._extra = self._declared_columns()
        self._rows: RolloutRows | None = None  # what writes one; None: the columns have changed since
        self._final: list[tuple[int, int, Observation]] = []
        self._no_finals = zeros_for(observation_space, 0)
        self._row = 0

    def __len__(self) -> int:
        """Rows written."""
        return self._row

    @property
    def full(self) -> bool:
        return self._row == self.num_steps

    def add(self, step: StepResult, extra: Mapping[str, Array]) -> None:
        """Write one row; ``extra`` holds arrays [N, ...] that the agent wants back. Raises before anything is written."""
        t, mask, observation = self._row, step.action_mask, step.observation
        if t == self.num_steps:
            raise ValueError(f"RolloutBuffer: all {t} rows are written; take the rollout first")
        if extra.keys() != self._extra.keys():
            self._take_columns(extra)
        if self._mask is None and mask is not None:
            self._mask, self._rows = np.ones((self.num_steps, *mask.shape), bool), None
        rows = self._rows or self._writer()
        leaves = (observation,) if type(observation) is np.ndarray else flat_leaves(self.observation_space, observation)
        masks = () if self._mask is None else (np.ones(self._mask.shape[1:], bool) if mask is None else mask,)
        columns = step.action, step.reward, step.terminated, step.truncated, step.valid, step.first, *masks
        if rows.write(t, (*leaves, *columns, *map(extra.__getitem__, self._extra))):
            for n in np.flatnonzero(step.truncated):
                self._final.append((t, int(n), map_observation(lambda x, n=n: np.array(x[n]), step.next_observation)))
        self._row += 1

    def extend(self, rows: StepRows) -> None:
        """Write K rows, of observations that are one array, as `add` would row by row; then raise the error that ended them, if one did.
        Other errors come before anything is written."""
        count, t = len(rows.reward), self._row
        if t + count > self.num_steps:
            raise ValueError(f"RolloutBuffer: {self.num_steps - t} rows are free, got {count}; take the rollout first")
        if rows.extra.keys() != self._extra.keys():
            self._take_columns({name: value[0] for name, value in rows.extra.items()})
        writer, valid = self._rows or self._writer(), np.ones((count, self.num_envs), bool)
        masks = () if self._mask is None else (np.ones((count, *self._mask.shape[1:]), bool),)
        columns = rows.observation, rows.action, rows.reward, rows.terminated, rows.truncated, valid, rows.first, *masks
        if writer.write_rows(t, count, (*columns, *map(rows.extra.__getitem__, self._extra))):
            self._final += [(t + k, n, np.array(rows.next_observation[k, n])) for k, n in np.argwhere(rows.truncated).tolist()]
        self._row += count
        if rows.error is not None:
            raise rows.error

    def _take_columns(self, extra: Mapping[str, Array]) -> None:
        """Memory for the extra columns of a first row; ValueError for others than before."""
        if self._declared is not None or self._extra:
            raise ValueError(f"RolloutBuffer: extra columns are {sorted(extra)}, expected {sorted(self._extra)}")
        self._extra = {name: np.zeros((self.num_steps, *np.shape(value)), np.asarray(value).dtype) for name, value in extra.items()}
        self._rows = None

    def _writer(self) -> RolloutRows:
        observation = [(f"observation.{i}", leaf) for i, leaf in enumerate(flat_leaves(self.observation_space, self._observation))]
        flags = (("terminated", self._terminated), ("truncated", self._truncated), ("valid", self._valid), ("first", self._first))
        mask = [] if self._mask is None else [("action_mask", self._mask)]
        extra = [(f"extra[{name!r}]", rows) for name, rows in self._extra.items()]
        self._rows = RolloutRows(
            [*observation, ("action", self._action), ("reward", self._reward), *flags, *mask, *extra], "reward", "truncated"
        )
        return self._rows

    def take(self, observation: Observation, first: Array | None = None) -> Rollout:
        """The rollout, closed by ``observation`` [N, ...], which the agent would act on next, and ``first`` (bool [N]), where that starts
        an episode; None: where the last step ended one. The buffer starts anew."""
        T, self._row = self._row, 0
        self._first[T] = (self._terminated[T - 1] | self._truncated[T - 1] if T else True) if first is None else first
        map_observation(lambda rows, x: rows.__setitem__(T, x), self._observation, observation)
        finals, self._final = self._final, []
        stacked = zeros_for(self.observation_space, len(finals)) if finals else self._no_finals
        for k, (_, _, final) in enumerate(finals):
            map_observation(lambda rows, x, k=k: rows.__setitem__(k, x), stacked, final)
        return Rollout(
            observation=map_observation(lambda x: x[: T + 1], self._observation),
            action=self._action[:T],
            reward=self._reward[:T],
            terminated=self._terminated[:T],
            truncated=self._truncated[:T],
            valid=self._valid[:T],
            first=self._first[: T + 1],
            final_step=np.array([t for t, _, _ in finals], np.int64),
            final_env=np.array([n for _, n, _ in finals], np.int64),
            final_observation=stacked,
            extra={name: rows[:T] for name, rows in self._extra.items()},
            action_mask=None if self._mask is None else self._mask[:T],
        )

    def arguments(self) -> dict[str, Any]:
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space}
        declared = None if self._declared is None else {name: [list(shape), dtype] for name, (shape, dtype) in self._declared.items()}
        return {"num_steps": self.num_steps, "num_envs": self.num_envs, **spaces, "extra": declared}

    def state_dict(self) -> dict[str, Any]:
        """Copies of the rows that are written."""
        rows = {name: column[: self._row].copy() for name, column in self._columns().items()}
        final = {"step": np.array([t for t, _, _ in self._final], np.int64), "env": np.array([n for _, n, _ in self._final], np.int64)}
        for i, leaf in enumerate(flat_leaves(self.observation_space, zeros_for(self.observation_space))):
            given = [list(flat_leaves(self.observation_space, observation))[i] for _, _, observation in self._final]
            final[f"observation.{i}"] = np.array(given, leaf.dtype).reshape(-1, *leaf.shape)
        if self._mask is not None:
            rows["action_mask"] = self._mask[: self._row].copy()
        return {"rows": rows, "extra": {name: rows[: self._row].copy() for name, rows in self._extra.items()}, "final": final}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of a buffer of the same size and spaces; ShapeError, DTypeError or ValueError otherwise, and nothing is changed."""
        rows, extra, final, own = dict(state["rows"]), dict(state["extra"]), state["final"], self._columns()
        count = len(rows["reward"])
        rows.setdefault("first", _first_of(rows["terminated"], rows["truncated"]))  # older versions did not keep it
        mask = rows.get("action_mask")
        if mask is not None:
            own["action_mask"] = np.ones((self.num_steps, self.num_envs, *np.shape(mask)[2:]), bool)
        if count > self.num_steps:
            raise ShapeError(f"load_state_dict: the state has {count} rows, expected at most {self.num_steps}")
        for name, column in own.items():
            _check_array(name, rows[name], (count, *column.shape[1:]), column.dtype)
        if count and self._declared is not None and extra.keys() != self._declared.keys():
            raise ValueError(f"load_state_dict: extra columns are {sorted(extra)}, expected {sorted(self._declared)}")
        declared = self._declared_columns()
        for name, column in extra.items():
            like = declared.get(name, np.asarray(column))
            _check_array(f"extra[{name!r}]", column, (count, *np.shape(like)[1:]), like.dtype)
        if not np.isfinite(rows["reward"]).all():
            raise NonFiniteError("load_state_dict: a reward is NaN or infinite")
        ended = np.argwhere(rows["truncated"])
        for name, column in (("step", ended[:, 0]), ("env", ended[:, 1])):
            if not np.array_equal(final[name], column):
                raise ValueError(f"load_state_dict: the final observations are of other {name}s than the truncated ones")
        observations = [final[f"observation.{i}"] for i in range(sum(name.startswith("observation.") for name in own))]
        for i, column in enumerate(observations):
            like = own[f"observation.{i}"]
            _check_array(f"final observation.{i}", column, (len(ended), *like.shape[2:]), like.dtype)
        for name, column in own.items():
            column[:count] = rows[name]
        self._extra = {name: np.zeros((self.num_steps, *column.shape[1:]), column.dtype) for name, column in extra.items()} | declared
        for name, column in extra.items():
            self._extra[name][:count] = column
        self._row, self._mask, self._rows = count, own.get("action_mask"), None
        self._final = [
            (int(t), int(n), nested_leaves(self.observation_space, iter([column[k].copy() for column in observations])))
            for k, (t, n) in enumerate(ended)
        ]

    def _declared_columns(self) -> dict[str, np.ndarray]:
        """Memory for the columns that the constructor declared, [T, N, ...] each."""
        columns = (self._declared or {}).items()
        return {name: np.zeros((self.num_steps, self.num_envs, *shape), dtype) for name, (shape, dtype) in columns}

    def _columns(self) -> dict[str, np.ndarray]:
        """The arrays that every row fills, [T, N, ...] each."""
        observation = {f"observation.{i}": leaf[:-1] for i, leaf in enumerate(flat_leaves(self.observation_space, self._observation))}
        flags = {"terminated": self._terminated, "truncated": self._truncated, "valid": self._valid, "first": self._first[:-1]}
        return {**observation, "action": self._action, "reward": self._reward, **flags}


def _first_of(terminated: np.ndarray, truncated: np.ndarray) -> np.ndarray:
    """Where episodes start, computed from where they end."""
    first = np.ones(np.shape(terminated), bool)
    first[1:] = (np.asarray(terminated) | truncated)[:-1]
    return first


def _check_array(name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if not isinstance(given, np.ndarray) or given.dtype != dtype or dtype.kind not in "biuf":
        raise DTypeError(f"load_state_dict: {name} is {getattr(given, 'dtype', type(given).__name__)}, expected an array of {dtype}")
    if given.shape != shape:
        raise ShapeError(f"load_state_dict: {name} has shape {list(given.shape)}, expected {list(shape)}")
    if dtype.kind == "b" and (given.view(np.uint8) > 1).any():
        raise ValueError(f"load_state_dict: {name} holds bytes other than 0 and 1")
