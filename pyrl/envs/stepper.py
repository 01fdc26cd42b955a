"""N environments behind one face, whatever steps them and however they reset: the only code that knows autoreset.

A vector environment restarts ended episodes in one of three ways (Gymnasium's ``AutoresetMode``). `Stepper` hides
which:

========= =================================== ============================ ======================================
mode      ``step`` returns at an end          the final observation is     the next episode starts
========= =================================== ============================ ======================================
NEXT_STEP the final observation               returned                     in the next step; its action is ignored
SAME_STEP the next episode's first            in ``infos["final_obs"]``    at once
DISABLED  the final observation               returned                     when we call ``reset`` with a mask
========= =================================== ============================ ======================================

In each, ``StepResult.next_observation`` is the final observation where an episode ended, and ``stepper.observation`` is
what to act on next. In NEXT_STEP that is the final observation once more: the step after it is dead, marked
``valid=False``.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import Space
from gymnasium.vector import AutoresetMode

from pyrl.envs.actions import ActionBorder
from pyrl.envs.notices import mask_is_ignored, mask_of_resets_only
from pyrl.envs.observations import ObservationBuffer, finite_test
from pyrl.envs.rows import Normalizes, RowColumns, most_rows
from pyrl.envs.success import success_rule
from pyrl.errors import CheckpointError, DTypeError, EnvError
from pyrl.ops.environments import NativePolicy
from pyrl.ops.steps import StepBook
from pyrl.seeding import stream_seed
from pyrl.spaces import check_action_space, check_observation_space
from pyrl.spaces.masks import MaskReader
from pyrl.types import Array, Episode, Observation, StepResult, StepRows

NEVER = 1 << 62  # no time limit


class Stepper(ABC):
    """What loops see of the environments. Made by `pyrl.envs.make`; close it, or use it in a ``with``.

    ``observation`` [N, ...] is what to act on, None before the first `reset` and after an error; ``first`` (bool [N]) says where it
    starts an episode, ``action_mask`` (bool [N, M]) what may be chosen there, None where the environments give no masks. Arrays handed
    out are the stepper's own: those of a `StepResult` and ``observation`` stay as they are until the next call of `step` or `reset`.
    """

    autoreset: AutoresetMode
    factory: Callable[[], Any] | None = None  # makes one more environment like these, in another process too
    frames: tuple[int, str] | None = None  # observations are stacks of so many frames, newest last, padded with "zero" or "repeat"
    episodic_life = False  # a lost life is terminated for the learner; the episode and its report continue
    env_timeout: float | None = None  # seconds that an environment in another process gets to answer
    first_index = 0  # of the environments, in messages: these may be some of many
    fires = False  # the step after a lost life is the environment's own, which revives the player: no transition
    at_once: ClassVar[float] = 0.05  # seconds after which `rollout` makes no further step, so that whoever waits for it need not wait long
    normalizes = False  # whether `rollout` takes a policy with moments and a ``normalizer``
    overlaps = False  # whether the environments step outside of this thread's interpreter: between `send` and `receive` they go on

    def __init__(self, observation_space: Space, action_space: Space, num_envs: int, seed: int, name: str, spec: Any) -> None:
        check_observation_space(observation_space, name)
        check_action_space(action_space, name)
        self.num_envs = num_envs
        self.single_observation_space: Any = observation_space
        self.single_action_space: Any = action_space
        self.name = name
        self.spec = spec
        self.seed = seed
        self.env_seeds = self._seeds_of(seed)
        self.observation: Any = None  # an Observation, or None: not checked, as loops know when it is there
        self.first: Array = np.ones(num_envs, bool)
        self.action_mask: Array | None = None
        self.closed = False
        self._masks: MaskReader | None = None  # None: the environments give no masks
        self._late_masks = True  # masks that come now would be the first ones
        self._missing = False  # at the last step: all masks
        self._nowhere = np.zeros(num_envs, bool)
        self._nowhere.flags.writeable = False
        self._border = ActionBorder(action_space, num_envs)
        # Three in rotation: acted on, following, and (where episodes ended) the first of the next episodes.
        self._buffers = [ObservationBuffer(observation_space, num_envs) for _ in range(3)]
        self._current = 0
        self._reward = np.zeros(num_envs)
        self._finite_reward = finite_test(self._reward)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._valid = np.ones(num_envs, bool)
        self._book = StepBook(self._reward, self._truncated, [NEVER] * num_envs)  # returns, clocks, time limits
        self._lives = np.zeros(num_envs, np.int64)  # left, where `episodic_life`
        self._lost = np.zeros(num_envs, bool)  # one of them, in the last step
        self._success_rule = success_rule(name)
        self._row_columns: RowColumns | None = None
        self._was_reset = False
        self._sent: Any = None  # the action of a step under way
        self.resets = 0  # of all environments together, so far

    def reset(self, seed: int | None = None) -> Observation:
        """Start new episodes everywhere; the observation [N, ...], which is also kept as ``observation``.

        Environment i is seeded from the stream ("env", i) of ``seed``. Without a seed the first reset takes the one
        given to `make`; later ones continue the environments' own random streams.
        """
        if self.closed:
            raise EnvError(f"{self.name}: reset after close")
        self.abandon()
        seeds: list[int] | None = None
        if seed is not None or not self._was_reset:
            self.seed = self.seed if seed is None else seed
            seeds = self.env_seeds = self._seeds_of(self.seed)
            self.single_action_space.seed(stream_seed(self.seed, "action_space"))
        self.observation = None
        self.resets += 1
        self._reward[:] = 0.0
        self._book.reset()
        self._terminated[:] = self._truncated[:] = False
        self._lives[:] = self._lost[:] = 0
        self.first = np.ones(self.num_envs, bool)
        self._look_for_masks(self._reset(seeds, self._buffers[self._current]))
        self._was_reset = True
        self.observation = self._buffers[self._current].value
        return self.observation

    def _seeds_of(self, seed: int) -> list[int]:
        """The seeds of the environments in a reset with ``seed``."""
        return [stream_seed(seed, "env", i) for i in range(self.num_envs)]

    @abstractmethod
    def _reset(self, seeds: list[int] | None, buffer: ObservationBuffer) -> Sequence[Any] | None:
        """Reset every environment and write what it shows into ``buffer``; their masks, None of those that gave none, and of all."""

    @abstractmethod
    def step(self, action: Array) -> StepResult:
        """Step every environment. ``action`` [N, ...] is the agent's: discrete actions count from zero, Box actions
        are clipped.

        After an error the environments are in an unknown state: `reset` or `close`.
        """

    @property
    def rolls_out(self) -> bool:
        """Whether `rollout` can make the steps from here."""
        return False

    def rollout(
        self,
        policy: NativePolicy,
        steps: int,
        *,
        normalizer: Normalizes | None = None,
        stop_at_end: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> StepRows:
        """Up to ``steps`` steps, of ``policy`` acting: the same bits as `step` by step. Fewer where they take long (`at_once`), where
        ``stop_at_end`` and an episode has ended, and where it was ``stopped``. ``normalizer`` is shown each observation before the policy
        acts on it, by the same moments, and each reward. An error after a step or more is in the rows' ``error``."""
        raise EnvError(f"{self.name}: {type(self).__name__} makes no rollouts; see rolls_out")

    def _columns_for(self, policy: NativePolicy, steps: int) -> RowColumns:
        """Memory of a rollout of ``steps`` steps or of fewer, which is kept for the next one. DTypeError or ValueError where ``policy`` or
        ``steps`` is none."""
        if not isinstance(policy, NativePolicy):
            hint = "where agent.native_policy() has none, step one by one"
            raise DTypeError(f"rollout: policy is {type(policy).__name__}, expected a NativePolicy; {hint}")
        if not isinstance(steps, int | np.integer) or isinstance(steps, bool):
            raise DTypeError(f"rollout: steps is {steps!r}, expected an integer")
        if steps < 1:
            raise ValueError(f"rollout: steps is {steps}, expected at least 1")
        steps = min(steps, most_rows(self._buffers[0]))
        if self._row_columns is None or len(self._row_columns.reward) < steps:
            self._row_columns = RowColumns.of(self.single_observation_space, self._border, steps, self.num_envs)
        return self._row_columns.rows(steps)

    def send(self, action: Array) -> None:
        """Begin a step, which `receive` ends: together they are `step`. Where the stepper ``overlaps``, the environments step meanwhile;
        elsewhere they step in `receive`. Between the two calls there is only `abandon` and `close`."""
        self._begin()
        if self._sent is not None:
            raise EnvError(f"{self.name}: send, but the step before was not received")
        self._send(action)
        self._sent = action

    def receive(self) -> StepResult:
        """What `step` returns, of the action that was sent."""
        if self._sent is None:
            raise EnvError(f"{self.name}: receive, but no step was sent")
        action, self._sent = self._sent, None
        try:
            return self._receive(action)
        except BaseException:  # a signal's handler too
            self.observation = None
            raise

    def abandon(self) -> None:
        """End a step under way whose result nobody wants: `reset` or `close` comes next."""
        if self._sent is not None:
            with contextlib.suppress(EnvError):
                self.receive()
        self.observation = None

    def _send(self, action: Array) -> None:  # noqa: B027
        """What can be begun of a step: here nothing."""

    def _receive(self, action: Array) -> StepResult:
        return self.step(action)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the environments continue: JSON values and arrays. EnvError where it cannot be taken: before the
        first reset, after an error, and where an environment does not give its state.

        An environment gives it by two methods, ``state_dict()`` (a mapping of JSON values and arrays, its random stream included) and
        ``load_state_dict(state)``.
        """
        if self.observation is None:
            raise EnvError(f"{self.name}: no state to save: there was no reset, or an error")
        leaves = {str(i): leaf.array.copy() for i, leaf in enumerate(self._buffers[self._current].leaves)}
        state = {
            "seed": self.seed, "env_seeds": list(self.env_seeds), "environments": self._environment_states(), "observation": leaves,
            **{name: np.array(column) for name, column in self._columns().items()},
        }  # fmt: skip
        return state if self.action_mask is None else {**state, "action_mask": self.action_mask.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of a stepper of the same environments; CheckpointError otherwise, and nothing is changed. EnvError if an environment refuses its
        state: then all of them need a reset."""
        columns, leaves = self._columns(), self._buffers[self._current].leaves
        own = {**columns, **{f"observation/{i}": leaf.array for i, leaf in enumerate(leaves)}}
        given = {**state, **{f"observation/{i}": array for i, array in dict(state.get("observation", {})).items()}}
        for name, like in own.items():
            array = given.get(name)
            if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (like.shape, like.dtype):
                raise CheckpointError(f"stepper/{name} is not an array of {like.dtype} {list(like.shape)}")
        seeds, environments, mask = state.get("env_seeds"), state.get("environments"), state.get("action_mask")
        if not isinstance(environments, Mapping) or not isinstance(seeds, list) or len(seeds) != self.num_envs:
            raise CheckpointError(f"stepper/environments or stepper/env_seeds is not of {self.num_envs} environments")
        reader = None if mask is None else MaskReader(self.single_action_space)
        if reader is not None and (not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs, sum(reader.sizes))):
            raise CheckpointError("stepper/action_mask is not of these environments")
        self.observation = None
        self._set_environment_states(environments)
        for leaf, i in zip(leaves, range(len(leaves))):
            leaf.array[...] = given[f"observation/{i}"]
        for name in ("lives", "lost"):
            columns[name][...] = given[name]
        self.seed, self.env_seeds, self._was_reset = int(state["seed"]), [int(seed) for seed in seeds], True
        self._book.load(given["returns"].tolist(), given["ages"].tolist())
        self.first, self._masks, self.action_mask = given["first"].copy(), reader, None if mask is None else mask.astype(bool)
        self.resets += 1
        self.observation = self._buffers[self._current].value

    def _columns(self) -> dict[str, np.ndarray]:
        """What is kept of each environment, by name: arrays [N]."""
        returns, ages = self._book.state()
        return {
            "returns": np.array(returns),
            "ages": np.array(ages, np.int64),
            "lives": self._lives,
            "lost": self._lost,
            "first": np.asarray(self.first),
        }

    def _environment_states(self) -> dict[str, Any]:
        """The states of the environments, by index."""
        raise EnvError(f"{self.name}: no state to save: {type(self).__name__} cannot reach it")

    def _set_environment_states(self, states: Mapping[str, Any]) -> None:
        raise EnvError(f"{self.name}: the environments take no state: {type(self).__name__} cannot reach it")

    @abstractmethod
    def render(self) -> Any:
        """The picture [height, width, 3] of environment 0, if `make` was given ``render_mode="rgb_array"``."""

    def close(self) -> None:
        """Release the environments; more than once is harmless."""
        if not self.closed:
            self.abandon()
            self.closed = True
            self._close()

    @abstractmethod
    def _close(self) -> None: ...

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, num_envs={self.num_envs}, autoreset={self.autoreset.name})"

    def _begin(self) -> Observation:
        """The observation acted on; EnvError where there is none."""
        if self.observation is None:
            raise EnvError(f"{self.name}: step {'after close' if self.closed else 'before reset (or after an error)'}")
        return self.observation

    def _finish(self, index: int, next_start: int, info_success: bool | None) -> Episode:
        """Book the episode that ended in environment ``index``."""
        episode_return, length = self._book.finish(index, next_start)
        return self._episode(index, episode_return, length, info_success)

    def _episode(self, index: int, episode_return: float, length: int, info_success: bool | None = None) -> Episode:
        """The episode that ended in environment ``index`` in the last step."""
        success = info_success
        if success is None and self._success_rule is not None:
            success = self._success_rule(bool(self._terminated[index]), float(self._reward[index]))
        return Episode(episode_return, length, index, success)

    def _look_for_masks(self, given: Sequence[Any] | None) -> None:
        """Whether the environments give masks, by those of their reset."""
        self._masks = self.action_mask = None
        self._late_masks = given is None or all(mask is None for mask in given)
        if given is None or self._late_masks:
            return
        reader = MaskReader(self.single_action_space)
        if not reader.sizes:
            mask_is_ignored(self.name, "masks of Box and MultiBinary actions are not known")
            return
        try:
            self.action_mask, self._masks = reader.rows(given), reader
        except ValueError as error:
            raise self._whole(f"reset: {error}") from error

    def _mask_rows(self, given: Sequence[Any]) -> Array | None:
        """bool [N, M] of the masks that came with a step, where the environments give any."""
        if self._masks is None:
            return None
        missing = all(mask is None for mask in given)
        if missing and self._missing:  # after one step it may be that an episode was over
            mask_of_resets_only(self.name)
        self._missing = missing
        try:
            return self._masks.rows(given)
        except ValueError as error:
            raise self._whole(f"step: {error}") from error

    def _whole(self, what: str) -> EnvError:
        """A fault of the vector environment, not of one of its environments."""
        self.observation = None
        return EnvError(f"{self.name} ({self.num_envs} environments, seed {self.seed}): {what}")

    def _mark_lost_lives(self, lives: Array) -> None:
        """Terminated where a life was lost in an unfinished episode, now that those that ended are booked. ``lives`` [N] are
        those of the infos; before the game is over there may be none left for some steps, which is not a loss."""
        before, dead = self._lives, self._lost
        self._lives = np.array(lives)
        self._lost = (self._lives < before) & (self._lives > 0) & ~self._truncated
        self._terminated |= self._lost
        if self.fires:
            self._valid = self._valid & ~dead
            self._terminated[dead] = self._truncated[dead] = False

    def _error(self, index: int, what: str) -> EnvError:
        """The environments are unusable until a reset, and the message says which one failed."""
        self.observation = None
        age = self._book.age(index)
        number, seed = self.first_index + index, self.env_seeds[index]
        error = EnvError(f"{self.name}: environment {number} (seed {seed}, step {age}): {what}")
        error.index, error.seed = number, seed
        return error

    def _reward_fault(self, index: int) -> str | None:
        """What the environment returned in place of a number, which NumPy took for NaN."""
        return None

    def _check_numbers(self, buffer: ObservationBuffer, what: str, given: Callable[[int], Observation] | None = None) -> None:
        """EnvError where a reward or an observation is not finite; ``given(index)`` is what the environment itself returned."""
        if not self._finite_reward():
            index = int(np.flatnonzero(~np.isfinite(self._reward))[0])
            raise self._error(
                index, self._reward_fault(index) or f"{what} returned the reward {self._reward[index]}, expected a finite number"
            )
        if not buffer.finite():
            index = buffer.not_finite_rows()[0]
            fault = None if given is None else buffer.fault(given(index))
            raise self._error(index, f"{what} returned an observation that is not finite{f': {fault}' if fault else ''}")
