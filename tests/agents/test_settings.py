"""No setting is taken that is not honoured: the walk over all of them, schedules, names of other libraries, torch's own settings."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from agent_envs import CONTINUOUS
from gymnasium import spaces
from settings_walk import AGENTS, REFUSED, SMALL, Case, arms_of, cases, fields, half, small

import pyrl
from pyrl.agents.actor_critic import standardized
from pyrl.agents.base import AgentConfig
from pyrl.agents.checks import Count, Length, Range, checks_arguments
from pyrl.agents.registry import FOREIGN, config_to_json, make_config
from pyrl.errors import CheckpointError, SettingError, SettingTypeError, UnknownNameError
from pyrl.own import BROUGHT, is_own
from pyrl.schedules import value_at
from pyrl.types import Progress

OBSERVATION = spaces.Box(-1, 1, (3,))
DISCRETE, BOX = spaces.Discrete(2), spaces.Box(-2, 2, (2,))
WALK = cases()


def action_space(algo: str) -> Any:
    return BOX if algo in CONTINUOUS else DISCRETE


def make(algo: str, **options: Any) -> pyrl.Agent:
    return pyrl.make_agent(algo, OBSERVATION, action_space(algo), **{**small(algo), **options})


def learn_once(agent: pyrl.Agent, seed: int = 0) -> None:
    """Rollouts or batches of noise."""
    from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer
    from pyrl.buffers.rollout import RolloutBuffer
    from pyrl.types import PolicyInput, StepResult

    noise, c = np.random.default_rng(seed), agent.config
    steps = getattr(c, "n_steps", 6)
    kind = PrioritizedReplayBuffer if getattr(c, "prioritized", False) else ReplayBuffer
    replay = agent.loop == "off_policy"
    store: Any = kind(64, OBSERVATION, agent.action_space) if replay else RolloutBuffer(steps, 1, OBSERVATION, agent.action_space)
    observation = noise.normal(size=(1, 3)).astype(np.float32)
    no = np.zeros(1, bool)
    for _ in range(steps):
        choice, following = agent.choose(PolicyInput(observation, no)), noise.normal(size=(1, 3)).astype(np.float32)
        reward = noise.normal(size=1)
        if replay:
            store.add(observation, choice.action, reward, following, no, no)
        else:
            store.add(StepResult(observation, choice.action, reward, following, no, no, ~no, first=no), choice.stored)
        observation = following
    if agent.loop == "asynchronous":
        agent.gradient(store.take(observation))  # type: ignore[attr-defined]
    else:
        agent.learn(store.sample(min(c.batch_size, 64)) if replay else store.take(observation))


# -- the walk ------------------------------------------------------------------------------------------------------------


def fitting(case: Case) -> dict[str, Any]:
    """The case among settings that go with it, where one bounds another."""
    options = {**small(case.algo), case.field: case.value}
    if case.field == "batch_size" and case.expected is not REFUSED and "buffer_size" in options:
        options["buffer_size"] = max(32, case.expected)
    if case.field == "buffer_size" and case.expected is not REFUSED:
        options["batch_size"] = 1
    if case.field == "n_sampled_goal":
        options["her"] = "future"
    if case.field.startswith("priority_"):
        options["prioritized"] = True
    if case.field == "n_quantiles":
        options["top_quantiles_to_drop_per_net"] = 0
    if case.field == "top_quantiles_to_drop_per_net" and case.expected is not REFUSED:
        options["n_quantiles"] = case.expected + 1
    return options


@pytest.mark.parametrize("algo", AGENTS)
def test_every_setting_is_refused_by_name_or_plain(algo: str) -> None:
    """Of `settings_walk.cases`, those of one agent: a config holds plain values, which JSON keeps."""
    counted = Counter[str]()
    for case in WALK:
        if case.algo != algo:
            continue
        counted["refused" if case.expected is REFUSED else "taken"] += 1
        if case.expected is REFUSED:
            with pytest.raises(SettingError, match=rf"Config: {case.field} is [\s\S]*, expected "):
                make_config(algo, fitting(case))
            continue
        config = make_config(algo, fitting(case))
        held = getattr(config, case.field)
        assert (held, type(held)) == (case.expected, type(case.expected)), case
        again = make_config(algo, config_to_json(config))
        assert config_to_json(again) == config_to_json(config)
        assert again == config or (case.field in BROUGHT and is_own(case.expected)), case  # of which JSON has the name
    assert counted["refused"] > 200
    assert counted["taken"] > 30


def test_a_list_that_is_too_long_is_refused_before_its_items_are_looked_at() -> None:
    """A checkpoint of 400 kB could ask for 200,000 layers, and cost seconds."""
    limits = [(algo, name, a.most) for algo, name, hint in fields() for _, about in arms_of(hint) for a in about if isinstance(a, Length)]
    assert len({algo for algo, *_ in limits}) == len(AGENTS) - 1  # all but the one that learns nothing
    for algo, name, most in limits:
        for kind in (list, tuple):
            with pytest.raises(SettingError, match=rf"{name} is .*, expected .* of at most {most}") as refused:
                make_config(algo, {name: kind([object()] * (most + 1))})
            assert not isinstance(refused.value, SettingTypeError)


def trainable(case: Case) -> bool:
    """What takes neither a GPU, minutes, nor gigabytes, nor objects that are no networks (tests/agents/test_own_networks.py has those)."""
    if case.field == "optimizer_kwargs" or (case.field in BROUGHT and case.expected is not REFUSED and is_own(case.expected)):
        return False
    if (
        case.expected is REFUSED
        or (isinstance(case.expected, int) and case.expected > 5)
        or type(case.value) in (int, float, bool, str, tuple)
    ):
        return (
            case.expected is not REFUSED
            and case.field not in ("engine", "features_extractor", "precision")
            and case.expected in (0, 1, -1, 0.0, 1.0)
        )
    return case.field not in ("engine", "features_extractor", "precision")


@pytest.mark.parametrize("algo", AGENTS)
def test_what_is_taken_trains_and_is_saved(algo: str, tmp_path: Path) -> None:
    """NumPy's forms, functions, and the edges of ranges: an update, a checkpoint, and the same config out of it."""
    chosen = {(case.field, repr(case.expected)): case for case in WALK if case.algo == algo and trainable(case)}
    assert len(chosen) > 10
    for i, case in enumerate(chosen.values()):
        options = fitting(case)
        if case.field == "n_steps" and "batch_size" in options:
            options["batch_size"] = 1
        if algo == "a3c" and case.field.startswith("normalize_") and case.field != "normalize_advantage" and case.expected:
            continue
        if algo == "a3c" and case.field == "optimizer" and case.expected not in ("adam", "rmsprop", None):
            continue
        agent = make(algo, **options)
        learn_once(agent)
        assert pyrl.load(agent.save(tmp_path / str(i))).config == agent.config, case


@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True, None, 10**9, math.nan, [2], np.float64(2)])
def test_the_number_of_environments_is_sensible(value: Any) -> None:
    for call in (
        lambda: pyrl.make_agent("ppo", OBSERVATION, DISCRETE, num_envs=value),
        lambda: pyrl.train("random", "CartPole-v1", num_envs=value, total_steps=10, run_dir=False),
    ):
        if value is None and call.__code__.co_names[0] == "pyrl" and "train" in call.__code__.co_names:
            continue  # the preset's
        with pytest.raises(SettingError, match=r"num_envs is .*, expected an integer in \[1, 65536\]"):
            call()


def test_a_new_algorithm_gets_checks_without_writing_any() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(AgentConfig):
        size: Annotated[int, Range(3, 5)] = 4
        name: str = "x"

    globals().update(Own=Own)
    assert Own(size=np.int8(5)).size == 5
    for wrong in ({"size": 2}, {"size": 6}, {"size": "4"}, {"name": 3}):
        with pytest.raises(SettingError, match=rf"Own: {next(iter(wrong))} is "):
            Own(**wrong)


def test_arguments_are_checked_by_their_annotations() -> None:
    @checks_arguments
    def function(count: Count, *rest: Any, flag: bool = False, **others: Any) -> Any:
        return count, flag

    assert function(np.int64(3), flag=np.bool_(True)) == (3, True)
    with pytest.raises(SettingTypeError, match="function: flag is 1, expected True or False"):
        function(3, flag=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing a required argument"):
        function()  # type: ignore[call-arg]


BAD_ARGUMENTS = [
    (name, value)
    for name, kinds in {
        "total_steps": "n", "total_episodes": "n", "eval_every": "n", "eval_episodes": "n", "stop_window": "n", "threads": "n",
        "save_every_episodes": "n", "max_episode_steps": "n", "num_envs": "n", "seed": "s", "stop_at_return": "r", "run_dir": "p",
        "resume": "p", "backend": "t", "env_kwargs": "m", "on_metrics": "f", "agent": "a", "curve": "c",
    }.items()
    for value in {
        "n": [0, -1, 2.5, "3", True, math.nan, [1], 1j, -math.inf], "s": [1.5, "0", True, math.nan, 2**70], "r": ["9", True, math.nan, []],
        "p": [3.5, [], {}], "t": [3, True, "nowhere", []], "m": [3, "a", [1]], "f": [3, "print"], "a": ["ppo", 3, {}],
        "c": [1, "yes", None],
    }[kinds]
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS, ids=repr)
def test_arguments_of_train_are_refused_by_name(name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError), match=rf"{name} is "):
        pyrl.train("random", "CartPole-v1", **{"total_steps": 10, name: value})
    assert not list(tmp_path.iterdir())


def test_seeds() -> None:
    agents = [pyrl.make_agent("ppo", OBSERVATION, DISCRETE, seed=seed) for seed in (None, None, np.int64(7))]
    assert agents[0].seed != agents[1].seed
    assert (agents[2].seed, type(agents[2].seed)) == (7, int)
    run = pyrl.train("random", "CartPole-v1", seed=None, total_steps=10, run_dir=False)
    again = pyrl.train("random", "CartPole-v1", seed=run.agent.seed, total_steps=10, run_dir=False)
    assert run.agent.random.state == again.agent.random.state
    assert len(pyrl.evaluate(run.agent, "CartPole-v1", 2, seed=None).returns) == 2


def test_an_agent_is_shown_in_one_line() -> None:
    for algo in AGENTS:
        text = repr(make(algo))
        assert text.startswith(f"{type(make(algo)).__name__}(Box(")
        assert "0 steps, 0 updates" in text
        assert "\n" not in text


@pytest.mark.parametrize(("theirs", "ours"), sorted(FOREIGN.items()))
def test_names_of_other_libraries_are_understood(theirs: str, ours: str) -> None:
    """One of the algorithms that has the option names it."""
    told = []
    for algo in ("ppo", "dqn", "sac"):
        with pytest.raises(UnknownNameError, match=rf"{algo} has no option '{theirs}'") as caught:
            pyrl.train(algo, "CartPole-v1" if algo != "sac" else "Pendulum-v1", run_dir=False, **{theirs: 1})
        told.append(str(caught.value).partition(" (options")[0])
    assert any(ours.split(", ")[0].split(":")[0] in text for text in told), told


# -- schedules -----------------------------------------------------------------------------------------------------------


def progress_remaining(progress_remaining: float) -> float:
    return progress_remaining


def test_functions_are_schedules() -> None:
    assert [value_at(half, p) for p in (0.0, 0.5, 1.0)] == [0.5, 0.25, 0.0]
    assert [value_at(progress_remaining, p) for p in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    with pytest.raises(SettingError, match=r"is -1 at progress 0.5, expected a number of at least 0"):
        value_at(lambda p: -1, 0.5)


SCHEDULED = [
    (case.algo, case.field) for case in WALK if case.value is half and case.field not in BROUGHT
]  # fmt: skip


@pytest.mark.parametrize(("algo", "field"), SCHEDULED)
def test_schedules_are_followed_and_saved_by_name(algo: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run with a function learns as a run with the number that it has there, on both engines."""
    for engine in ("auto", "torch"):
        extra = {} if algo == "random" else {"engine": engine}
        agents = [make(algo, **{field: value, **extra}) for value in (half, 0.25)]
        for agent in agents:
            agent.progress = Progress(0, 0.5)
            learn_once(agent)
            learn_once(agent, 1)
        assert weights(agents[0]) == weights(agents[1])
    loaded = pyrl.load(agents[0].save(tmp_path / "a"))
    assert getattr(loaded.config, field) == "settings_walk:half"
    monkeypatch.delitem(sys.modules, "settings_walk")
    with pytest.raises(CheckpointError, match=rf"{field} is the function 'settings_walk:half'; import settings_walk before"):
        pyrl.load(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "settings_walk", types.ModuleType("settings_walk"))
    with pytest.raises(CheckpointError, match=rf"{field} is 'settings_walk:half'.*has no attribute 'half'"):
        pyrl.load(tmp_path / "a")


class Callable_:
    def __call__(self, progress: float) -> float:
        return 0.1


@pytest.mark.parametrize("function", [lambda p: 0.1, Callable_()], ids=["lambda", "object"])
def test_functions_without_a_name_train_and_are_refused_where_they_would_be_saved(function: Any, tmp_path: Path) -> None:
    agent = make("ppo", learning_rate=function)
    learn_once(agent)
    with pytest.raises(SettingError, match=r"PPOConfig: learning_rate is <.*, which cannot be saved"):
        agent.save(tmp_path / "a")
    options: dict[str, Any] = {"total_steps": 40, "learning_rate": function, **small("ppo")}
    with pytest.raises(SettingError, match=r"learning_rate is <.*, which cannot be saved"):
        pyrl.train("ppo", "CartPole-v1", run_dir=tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())
    assert pyrl.train("ppo", "CartPole-v1", run_dir=False, **options).agent.updates > 0


# -- advantages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7, 1e-12, 1e30, 0.0])
@pytest.mark.parametrize("count", [2, 3, 7, 64, 1000])
def test_equal_advantages_become_zero(value: float, count: int) -> None:
    """Their deviations from a rounded mean are not blown up; the native loss has 0 too (tests/ops/test_losses.py)."""
    assert standardized(torch.full((count,), value)).abs().max() == 0.0
    mixed = torch.full((count,), value)
    mixed[0] = 2 * value + 1
    torch.testing.assert_close(standardized(mixed), (mixed - mixed.mean()) / (mixed.std() + 1e-8), rtol=1e-4, atol=1e-6)


# -- torch's process-wide settings ---------------------------------------------------------------------------------------


@contextmanager
def switched(switch: Callable[[Any], Any], on: Any, off: Any) -> Iterator[None]:
    switch(on)
    try:
        yield
    finally:
        switch(off)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": lambda: switched(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
}


def weights(agent: pyrl.Agent) -> list[bytes]:
    return [t.detach().numpy().tobytes() for m in agent.modules().values() for t in m.state_dict().values()]


def life(algo: str, engine: str, path: Path) -> Any:
    """Made, acted with, taught, saved, loaded, acted with again."""
    agent = make(algo, engine="auto" if algo == "random" else engine, seed=3)
    learn_once(agent)
    loaded = pyrl.load(agent.save(path))
    learn_once(loaded, 1)
    return weights(loaded), loaded.act(np.zeros(3, np.float32)).tolist()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("algo", AGENTS)
def test_agents_are_the_same_whatever_torch_is_set_to(algo: str, engine: str, tmp_path: Path) -> None:
    expected = life(algo, engine, tmp_path / "standard")
    for name, state in STATES.items():
        before = torch.get_default_dtype()
        with state():
            assert life(algo, engine, tmp_path / name) == expected, name
        assert torch.get_default_dtype() is before


def test_small_settings_are_those_of_some_agent() -> None:
    assert all(any(name in small(algo) for algo in AGENTS) for name in SMALL)
