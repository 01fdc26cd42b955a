"""The host's EpisodeReplayBuffer on the record stream of `pyrl.buffers`."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np
from ray.rllib.core import DEFAULT_AGENT_ID, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.rllib.utils.replay_buffers import episode_replay_buffer as host

from pyrl import buffers
from pyrl.adapters.columns import count, flag, share
from pyrl.adapters.rllib.episodes import each, steps_of
from pyrl.adapters.rllib.frames import Frames
from pyrl.adapters.rllib.store import COLUMNS, EpisodeStore, slots_of
from pyrl.adapters.rllib.table import Episode
from pyrl.errors import CheckpointError, DTypeError, SettingError
from pyrl.types import Batch, map_observation

_IN_SLOTS = (
    "capacity",
    "batch_size_B",
    "batch_length_T",
    "sampled_timesteps",
    "_num_timesteps_added",
)  # of the host's class; it has others
_ONE = buffers.Window(n_step=1)


class EpisodeReplayBuffer(host.EpisodeReplayBuffer):
    """``replay_buffer_config={"type": "pyrl.adapters.rllib.EpisodeReplayBuffer", ...}`` of DQN: uniform draws of transitions.

    Each observation is stored once, in memory of fixed size that is reserved at the first `add`. Whole episodes are evicted, oldest first,
    in time that does not grow with the capacity. Of an episode longer than the capacity the newest steps are kept.

    ``replay_buffer_config``:
        capacity: steps. A slot in 64 is reserved for the last observations of episodes; where these are shorter, fewer steps fit.
        batch_size_B: of a `sample` that names no number.
        num_envs: episodes that grow at the same time, whose steps lie in lanes of their own; by default, those that have not ended in the
            first `add`. Where more of them grow, one is cut: values continue beyond a cut, but n-step returns end there. Warns then.
        frame_stack: the last dimension of an observation is so many frames, oldest first (`wrap_atari_for_new_api_stack`): only the newest
            is stored, and they are stacked again at the draw.
        stack_padding: what stands before an episode's first frame: the frame itself ("repeat", as that wrapper) or zeros ("zero").
        store_infos, store_extra_model_outputs: keep them, for ``include_infos`` and ``include_extra_model_outputs`` of `sample`.
        seed: of the draws; by default it comes from NumPy's global stream, which the host seeds.

    ``replay`` is the `pyrl.buffers.ReplayBuffer` behind it, None before the first `add`.
    """

    _replay_class = buffers.ReplayBuffer
    _default_length = 64

    def __init__(
        self,
        capacity: int = 10000,
        *,
        batch_size_B: int = 16,
        batch_length_T: int | None = None,
        metrics_num_episodes_for_smoothing: int = 100,
        num_envs: int | None = None,
        frame_stack: int = 1,
        stack_padding: Literal["repeat", "zero"] = "repeat",
        store_infos: bool = False,
        store_extra_model_outputs: bool = False,
        seed: int | None = None,
        beta: float | None = None,
        **options: Any,
    ) -> None:
        if options:
            raise SettingError(f'{self._name}: replay_buffer_config has "{min(options)}", which this buffer does not know')
        self.capacity = count(self._name, "capacity", capacity, 2)
        self.batch_size_B = count(self._name, "batch_size_B", batch_size_B)
        self.batch_length_T = self._default_length if batch_length_T is None else count(self._name, "batch_length_T", batch_length_T)
        self._num_envs = None if num_envs is None else count(self._name, "num_envs", num_envs)
        self._frames = Frames(count(self._name, "frame_stack", frame_stack), stack_padding)
        self._with_infos = flag(self._name, "store_infos", store_infos)
        self._with_outputs = flag(self._name, "store_extra_model_outputs", store_extra_model_outputs)
        if beta is not None:
            share(self._name, "beta", beta)
        self._seed = int(np.random.randint(2**31)) if seed is None else count(self._name, "seed", seed, 0)  # noqa: NPY002 (the host's seed)
        self.metrics = MetricsLogger(root=False)
        self._metrics_num_episodes_for_smoothing = count(
            self._name, "metrics_num_episodes_for_smoothing", metrics_num_episodes_for_smoothing
        )
        self._sampled: Counter[str] = Counter()  # since the metrics were asked for
        self.sampled_timesteps = self._num_timesteps_added = 0
        self._store: EpisodeStore | None = None  # made for the episodes of the first `add`
        self._random = np.random.default_rng(self._seed)  # of the lengths of returns

    @property
    def replay(self) -> Any:
        return None if self._store is None else self._store.replay

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _make(self, **options: Any) -> Any:
        return self._replay_class(**options, seed=self._seed)

    # -- adding ---------------------------------------------------------------------------------------------------------------------

    def add(self, episodes: Any) -> None:
        """Store episodes, or pieces of episodes that go on where their last piece ended (its last observation again).

        Raises DTypeError, ShapeError, SpaceError, NonFiniteError or ValueError, naming the episode; then nothing is stored.
        """
        self._store_all(episodes)

    def _store_all(self, episodes: Any) -> np.ndarray:
        """`add`; the indices of these steps."""
        listed = episodes if isinstance(episodes, list | tuple) else [episodes]
        found = [steps for steps in (steps_of(episode, self._with_infos) for episode in listed) if len(steps)]
        if not found:
            return np.zeros(0, np.int64)
        store = self._store
        if store is None:
            store = EpisodeStore(self.capacity, self._num_envs, found, self._frames, self._with_infos, self._with_outputs, self._make)
        index = store.add(found)
        self._store = store
        self._num_timesteps_added += len(index)
        return index

    # -- drawing --------------------------------------------------------------------------------------------------------------------

    def sample(
        self,
        num_items: int | None = None,
        *,
        batch_size_B: int | None = None,
        batch_length_T: int | None = None,
        n_step: int | tuple[int, int] | None = None,
        beta: float | None = 0.0,
        gamma: float = 0.99,
        include_infos: bool = False,
        include_extra_model_outputs: bool = False,
        sample_episodes: bool | None = False,
        to_numpy: bool = False,
        lookback: int = 0,
        min_batch_length_T: int = 0,
        **options: Any,
    ) -> Any:
        """Draw transitions: a list of the host's episodes of one step, with ``n_step`` and ``weights`` among their extra model outputs.

        Args:
            num_items, batch_size_B: how many; one of the two, or neither.
            n_step: length of the returns; a pair (low, high) draws one from low to high - 1 for each transition. Returns end early at
                an episode's end and at the newest step, and the ``n_step`` of a transition is the number of its steps.
            gamma: discount factor of the returns.
            include_infos, include_extra_model_outputs: need ``store_infos`` and ``store_extra_model_outputs``.
            sample_episodes: must be True.
            to_numpy: give arrays instead of lists in the episodes.

        SettingError for what needs sequences: ``batch_length_T``, ``lookback``, ``min_batch_length_T``, which the host asks for with
        stateful modules. ValueError if nothing is stored.
        """
        if options:
            raise SettingError(f"sample: {min(options)} is not an argument of this buffer")
        if not sample_episodes:
            raise SettingError("sample: sample_episodes is False, expected True: rows of the batch form are sequences, which are not drawn")
        sequences = {"batch_length_T": batch_length_T, "lookback": lookback, "min_batch_length_T": min_batch_length_T}
        if asked := [name for name, value in sequences.items() if value]:
            raise SettingError(f"sample: {asked[0]} is {sequences[asked[0]]}, expected 0: sequences (stateful modules) are not drawn here")
        if num_items is not None and batch_size_B is not None:
            raise ValueError("sample: num_items and batch_size_B are both given, expected one of them")
        given = batch_size_B if num_items is None else num_items
        size = self.batch_size_B if given is None else count("sample", "batch_size_B" if num_items is None else "num_items", given)
        for name, asked_for, kept in (
            ("infos", include_infos, self._with_infos),
            ("extra_model_outputs", include_extra_model_outputs, self._with_outputs),
        ):
            if asked_for and not kept:
                raise SettingError(
                    f'sample: include_{name} is True, and they are not stored; give replay_buffer_config "store_{name}": True'
                )
        if not len(self):
            raise ValueError("sample: nothing is stored")
        steps = self._lengths(n_step, size)
        share("sample", "gamma", gamma)
        made = self._write(*self._draw(size, beta), steps, gamma, include_extra_model_outputs)
        return [episode.to_numpy() for episode in made] if to_numpy else made

    def _lengths(self, n_step: Any, size: int) -> Any:
        """The length of each return: one number, or int64 [B]."""
        if not isinstance(n_step, tuple | list):
            return 1 if n_step is None else count("sample", "n_step", n_step)
        lengths = [count("sample", "n_step", length) for length in n_step]
        if len(lengths) != 2 or lengths[0] >= lengths[1]:
            raise ValueError(f"sample: n_step is {n_step!r}, expected a number, or (low, high) with 1 <= low < high")
        return self._random.integers(lengths[0], lengths[1], size)

    def _draw(self, size: int, beta: Any) -> tuple[Batch, Any]:
        """Transitions of one step, and their weights."""
        return self.replay.sample(size), np.ones(size, np.float32)

    def _write(self, first: Batch, weight: Any, lengths: Any, gamma: float, outputs: bool) -> list[Any]:
        """Drawn transitions of one step as the host's episodes, with returns of these lengths."""
        store: Any = self._store
        last, reward, n_step = first, first.reward, np.ones(len(first.index), np.int64)
        if not np.isscalar(lengths) or lengths != 1:
            last, reward, n_step = self._returns(first, lengths, gamma)
        serial = first.extra["episode"]
        infos: Any = [None] * len(serial)
        if self._with_infos:
            ends = zip((first.index % self.replay.capacity).tolist(), (last.index % self.replay.capacity).tolist())
            infos = [[store.infos[start][0], store.infos[end][1]] for start, end in ends]
        kept = {key: first.extra[name] for key, name in store.outputs.items()} if outputs else {}
        found = {
            "steps": len(serial),
            "n_steps": int(n_step.sum()),
            "episodes": len(np.unique(serial)),
            "distinct": len(np.unique(first.index)),
        }
        self._sampled.update(found)
        self.sampled_timesteps += len(serial)
        return store.writer.write(
            observation=map_observation(self._frames.stacked, first.observation), action=first.action, reward=reward,
            next_observation=map_observation(self._frames.stacked, last.next_observation), terminated=last.terminated,
            truncated=last.extra["time_limit"], n_step=n_step.tolist(), weight=weight, t=first.extra["t"].tolist(),
            source=[store.table.by_serial[number] for number in serial.tolist()], infos=infos,
            outputs=[dict(zip(kept, row)) for row in zip(*map(each, kept.values()))] if kept else [None] * len(serial),
        )  # fmt: skip

    def _returns(self, first: Batch, lengths: Any, gamma: float) -> tuple[Batch, np.ndarray, np.ndarray]:
        """The last transition of each window, the discounted sum of its rewards, and its number of steps."""
        longest = int(np.max(lengths))
        steps = self.replay.steps(first.index, longest)
        inside = (steps >= 0) & (np.arange(longest) < np.reshape(lengths, (-1, 1)))
        n_step = inside.sum(1)
        reward = np.zeros(steps.shape)
        reward[inside] = self.replay.column("reward", steps[inside])
        last = self.replay.get(steps[np.arange(len(steps)), n_step - 1], window=_ONE)
        return last, (reward @ gamma ** np.arange(longest)).astype(np.float32), n_step

    # -- what the host asks ---------------------------------------------------------------------------------------------------------

    @property
    def episodes(self) -> list[Episode]:
        """Those that are stored, oldest first: their ``id_``."""
        return [] if self._store is None else list(self._store.table.by_serial.values())

    def get_num_episodes(self, module_id: Any = None) -> int:
        return 0 if self._store is None else len(self._store.table)

    def get_num_episodes_evicted(self, module_id: Any = None) -> int:
        return 0 if self._store is None else self._store.evicted

    def get_num_timesteps(self, module_id: Any = None) -> int:
        return 0 if self._store is None else len(self._store.replay)

    @property
    def nbytes(self) -> int:
        """Bytes of the store; 0 before the first `add`. Infos come on top, if they are stored."""
        return 0 if self._store is None else self._store.replay.nbytes

    @classmethod
    def forecast(cls, capacity: int, observation_space: Any, action_space: Any, num_envs: int = 1, frame_stack: int = 1) -> int:
        """What ``nbytes`` will be, before anything is allocated; without extra model outputs."""
        frame = Frames(frame_stack, "repeat").space(observation_space)
        return cls._replay_class.forecast(
            slots_of(capacity, num_envs), frame, action_space, num_envs, frame_stack=frame_stack, extra=COLUMNS
        )

    def get_metrics(self) -> Any:
        """The host's metrics of what was added and sampled since the last call."""
        if self._store is not None and self._store.counts:
            self._log_added(self._store.counts)
            self._store.counts.clear()
        if self._sampled:
            self._log_sampled()
            self._sampled.clear()
        return self.metrics.reduce()

    def _log_added(self, seen: Counter[str]) -> None:
        names = ("episodes added", "steps added", "episodes evicted", "steps evicted")
        numbers = {f"num_{name.replace(' ', '_')}": seen[name] for name in names}
        whole = {name.replace("steps", "env_steps"): number for name, number in numbers.items()}
        self._update_add_metrics(**whole, **by_agent_and_module(numbers))

    def _log_sampled(self) -> None:
        seen = self._sampled
        n_step = seen["n_steps"] / seen["steps"]
        numbers = {
            "num_steps_sampled": seen["steps"], "num_episodes_per_sample": seen["episodes"], "num_steps_per_sample": seen["distinct"],
            "sampled_n_step": n_step, "num_resamples": 0,
        }  # fmt: skip
        self._update_sample_metrics(
            num_env_steps_sampled=seen["steps"], num_episodes_per_sample=seen["episodes"], num_env_steps_per_sample=seen["distinct"],
            sampled_n_step=n_step, num_resamples=0, **by_agent_and_module(numbers),
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **{name: getattr(self, name) for name in _IN_SLOTS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def get_state(self) -> dict[str, Any]:
        """Arrays and plain objects of the host's and of Python; restoring gives the same contents and the same next draws."""
        state = {"capacity": self.capacity, "sampled_timesteps": self.sampled_timesteps, "_num_timesteps_added": self._num_timesteps_added}
        return {**state, "random": self._random.bit_generator.state, "store": None if self._store is None else self._store.get_state()}

    def set_state(self, state: Any) -> None:
        """Of a buffer of the same options. ValueError or DTypeError if it is of another, CheckpointError if it is damaged; then nothing is
        changed."""
        if not isinstance(state, dict) or "store" not in state:
            raise DTypeError("set_state: state is not what get_state of this buffer gives; that of the host's buffers does not load here")
        if state.get("capacity") != self.capacity:
            raise ValueError(f"set_state: the state is of a buffer with capacity {state.get('capacity')}, this one has {self.capacity}")
        random, counts = np.random.default_rng(), [state.get(name) for name in ("sampled_timesteps", "_num_timesteps_added")]
        try:
            store = None if state["store"] is None else EpisodeStore.from_state(state["store"], self._frames, self._with_infos, self._make)
            random.bit_generator.state = state["random"]
            sampled, added = (count("set_state", "a count of steps", number, 0) for number in counts)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, RuntimeError) as error:
            if str(error).startswith("set_state: the state is of a buffer"):
                raise
            raise CheckpointError(f"set_state: the state is damaged: {error!r}") from None
        self._store, self.sampled_timesteps, self._num_timesteps_added, self._random = store, sampled, added, random


def by_agent_and_module(numbers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The host counts everything by agent and by module too; here there is one of each."""
    keys = (("agent", DEFAULT_AGENT_ID), ("module", DEFAULT_MODULE_ID))
    return {f"{whose}_to_{name}": {key: number} for whose, key in keys for name, number in numbers.items()}


def install() -> None:
    """From here on the host's names for its buffers of one agent make ours, in this process: for SAC, which takes no other names."""
    from ray.rllib.utils import replay_buffers

    from pyrl.adapters.rllib.prioritized import PrioritizedEpisodeReplayBuffer

    for made in (EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer):
        setattr(replay_buffers, made.__name__, made)
