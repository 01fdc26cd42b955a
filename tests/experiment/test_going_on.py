"""Going on: with a stopped run (what may change of it), with an agent (warm start), and what a run's settings are saved as."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from agent_envs import CONTINUOUS
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import pyrl
from pyrl import checkpoint
from pyrl.errors import CheckpointError, SettingError, UnknownNameError
from pyrl.experiment.runs import RunFolder
from pyrl.experiment.settings import from_json, to_json

REPLAY = {"buffer_size": 200, "train_freq": 1, "learning_starts": 10, "batch_size": 16, "net_arch": (4,)}
QUICK: dict[str, dict[str, Any]] = {
    "random": {"n_steps": 8},
    "ppo": {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "net_arch": (4,)},
    "a2c": {"net_arch": (4,)},
    "dqn": REPLAY,
    **dict.fromkeys(CONTINUOUS, REPLAY),
}


class Walk(gym.Env):
    """Some steps, of some size."""

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, kind: str = "discrete", table: Any = None, pair: Any = None, length: int = 7) -> None:
        self.action_space = spaces.Discrete(2) if kind == "discrete" else spaces.Box(-2, 2, (1,))
        self.told = (table, pair)
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 1.0, self.t == self.length, False, {}


def continuous() -> Walk:
    return Walk("continuous")


def env_of(algo: str) -> Any:
    return continuous if QUICK[algo] is REPLAY and algo != "dqn" else Walk


def weights(agent: pyrl.Agent) -> list[bytes]:
    return [t.detach().numpy().tobytes() for m in agent.modules().values() for t in m.state_dict().values()]


def trained(algo: str, folder: Path, **options: Any) -> pyrl.experiment.train.Run:
    return pyrl.train(algo, env_of(algo), total_steps=60, run_dir=folder, **QUICK[algo], **options)


# -- an agent --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algo", "prioritized"), [*((algo, False) for algo in QUICK), ("dqn", True)])
def test_every_agent_goes_on_from_a_checkpoint(algo: str, prioritized: bool, tmp_path: Path) -> None:
    """In a new loop, whose replay is empty; its steps count from here."""
    trained(algo, tmp_path / "run", num_envs=1, **({"prioritized": True} if prioritized else {}))
    agent = pyrl.load(tmp_path / "run")
    before, updates = agent.env_steps, agent.updates
    progress = []
    for _ in pyrl.iterate(agent, env_of(algo), 60):
        progress.append(agent.progress.share)
    assert agent.env_steps == pytest.approx(before + 60, abs=16)
    assert agent.updates > updates or algo == "random"
    assert 0.0 < progress[0] < 1.0 == progress[-1]


@pytest.mark.parametrize("algo", QUICK)
def test_a_run_starts_warm_from_an_agent(algo: str, tmp_path: Path) -> None:
    first = trained(algo, tmp_path / "a", seed=3)
    agent, steps = first.agent, first.agent.env_steps
    own = {"net_arch": [4]} if algo != "random" else {}
    run = pyrl.train(algo, env_of(algo), agent=agent, total_steps=40, run_dir=tmp_path / "b", **own)
    assert run.agent is agent
    assert run.new_steps == agent.env_steps - steps >= 40
    assert run.ending.startswith("total_steps: 40 reached")
    config = RunFolder.open(tmp_path / "b").config
    assert (config["seed"], config["num_envs"], config["preset"]) == (3, agent.num_envs, None)
    again = pyrl.train(algo, env_of(algo), resume=tmp_path / "b", total_steps=80)
    assert again.agent.env_steps == pytest.approx(steps + 80, abs=16)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"learning_rate": 1e-5}, r"learning_rate is 1e-05, but agent has 0\.0007: it keeps its own config"),
        ({"net_arch": (8, 8)}, r"net_arch is \(8, 8\), but agent has \(4,\)"),
        ({"num_envs": 3}, r"num_envs is 3, but agent has 8"),
        ({"seed": 4}, r"seed is 4, but agent has 3"),
        ({"lr": 4}, r"a2c has no option 'lr'; did you mean learning_rate"),
        ({"resume": "x"}, r"agent and resume are both given"),
        ({"algo": "ppo"}, r"algo is 'ppo', but agent has 'a2c'"),
    ],
)
def test_what_an_agent_cannot_honour_is_refused_by_name(told: dict[str, Any], message: str, tmp_path: Path) -> None:
    agent = trained("a2c", tmp_path / "a", seed=3).agent
    before = weights(agent)
    with pytest.raises((SettingError, UnknownNameError), match=message):
        pyrl.train(**{"algo": "a2c", "env": Walk, "agent": agent, "total_steps": 10, "run_dir": tmp_path / "b", **told})
    assert weights(agent) == before
    assert not (tmp_path / "b").exists()


def test_the_folder_of_a_run_is_loaded(tmp_path: Path) -> None:
    """Its best checkpoint, or the last where there is none."""
    run = trained("ppo", tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    assert pyrl.load(tmp_path / "run").env_steps == run.agent.env_steps
    assert pyrl.load(str(tmp_path / "run")).env_steps == run.agent.env_steps
    best = pyrl.make_agent("ppo", Walk.observation_space, spaces.Discrete(2))
    best.save(folder.best)
    assert pyrl.load(tmp_path / "run").env_steps == 0
    with pytest.raises((CheckpointError, FileNotFoundError)):
        pyrl.load(tmp_path)


# -- a stopped run -----------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Any]] = [
    ("algo", "a2c"), ("env", "CartPole-v1"), ("seed", 1), ("num_envs", 3), ("backend", "sync"), ("env_kwargs", {"length": 3}),
    ("max_episode_steps", 3), ("run_dir", "elsewhere"), ("run_dir", False),
    ("gamma", 0.5), ("n_steps", 8), ("batch_size", 8), ("n_epochs", 2), ("clip_range", 0.1), ("ent_coef", 0.1), ("net_arch", (8,)),
    ("activation", "relu"), ("engine", "torch"), ("normalize_observation", True), ("target_kl", 0.1), ("clip_reward", 3.0),
]  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    trained("ppo", folder, seed=5, num_envs=1)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=repr)
def test_a_resumed_run_refuses_what_it_cannot_change(name: str, value: Any, stopped: Path) -> None:
    before = files(stopped)
    with pytest.raises(
        (SettingError, UnknownNameError), match=rf"train: {name} is .*a resumed run keeps its settings, but for total_steps"
    ):
        pyrl.train(**{"algo": "ppo", "env": Walk, "resume": stopped, "total_steps": 70, name: value})
    assert files(stopped) == before


@pytest.mark.parametrize("name", ["lr", "total_timesteps", "gama", "nsteps", "buffer_size"])
def test_a_resumed_run_refuses_what_is_misspelt(name: str, stopped: Path) -> None:
    before = files(stopped)
    with pytest.raises(UnknownNameError, match=f"ppo has no option '{name}'"):
        pyrl.train("ppo", Walk, resume=stopped, **{name: 1})
    assert files(stopped) == before


def test_a_resumed_run_honours_what_may_change_and_notes_it(tmp_path: Path) -> None:
    trained("ppo", tmp_path / "run", seed=5, num_envs=1, eval_episodes=3)
    seen = []
    run = pyrl.train(
        "ppo", Walk, resume=tmp_path / "run", total_steps=200, learning_rate=np.float64(1e-9), eval_every=50, eval_episodes=2,
        stop_at_return=7, stop_window=20, save_every_episodes=10, seed=5, num_envs=1, net_arch=[4],
        run_dir=tmp_path / "run", on_metrics=seen.append,
    )  # fmt: skip
    assert {m["train/learning_rate"] for m in seen if "train/learning_rate" in m} == {1e-9}
    assert len(run.evaluations[0][1].returns) == 2
    assert run.ending.startswith("stop_at_return")
    config = RunFolder.open(tmp_path / "run").config
    (note,) = config["resumed"]
    assert note["env_steps"] == 60
    expected = {
        "total_steps": [60, 200], "learning_rate": [3e-4, 1e-9], "eval_every": [None, 50], "eval_episodes": [3, 2],
        "stop_at_return": [None, 7.0], "stop_window": [10, 20], "save_every_episodes": [None, 10],
    }  # fmt: skip
    assert note["changes"] == expected
    assert config["config"]["learning_rate"] == 1e-9
    # And again, with nothing new: what was told before stays.
    run = pyrl.train("ppo", Walk, resume=tmp_path / "run", stop_at_return=math.inf)
    assert run.agent.config.learning_rate == 1e-9
    assert RunFolder.open(tmp_path / "run").config["eval_episodes"] == 2


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "1", [1], 2**40, math.nan, math.inf], ids=repr)
@pytest.mark.parametrize("name", ["episodes", "first_step", "seconds", "stored", "window"])
def test_a_loop_refuses_a_state_that_none_has(name: str, value: Any) -> None:
    agent = pyrl.make_agent("dqn", Walk.observation_space, spaces.Discrete(2), **REPLAY)
    loop = pyrl.iterate(agent, Walk, 20)
    before = loop.state_dict(replay=False)
    if name == "seconds" and type(value) in (int, float) and 0 <= value < math.inf:
        return
    with pytest.raises(CheckpointError, match=f"loop/{name} is "):
        loop.load_state_dict({**loop.state_dict(), name: value})
    assert loop.state_dict(replay=False) == before


def test_an_older_replay_counts_what_it_holds(tmp_path: Path) -> None:
    """A run that was killed between two saves of its replay learns again when that holds enough."""
    trained("dqn", tmp_path / "run", num_envs=1)
    last = tmp_path / "run" / "checkpoints" / "last"
    tree, about = checkpoint.load(last)
    assert tree["loop"]["stored"] == about["replay_env_steps"] == 60
    checkpoint.save(last, tree, {**about, "replay_env_steps": 55})
    seen: list[float] = []
    with pytest.warns(RuntimeWarning, match="lacks the last 5 steps"):
        pyrl.train("dqn", Walk, resume=tmp_path / "run", total_steps=70, on_metrics=lambda m: seen.append(m["time/updates"]))
    assert checkpoint.load(last)[0]["loop"]["stored"] == 65
    assert seen[-1] > seen[0]


def test_a_warm_start_without_its_first_save_is_refused(tmp_path: Path) -> None:
    agent = trained("ppo", tmp_path / "a").agent
    pyrl.train("ppo", Walk, agent=agent, total_steps=20, run_dir=tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    (tmp_path / "b" / "metrics.csv").unlink()
    with pytest.raises(CheckpointError, match="last is missing: the run began with an agent"):
        pyrl.train("ppo", Walk, resume=tmp_path / "b", total_steps=40)


# -- what is saved -------------------------------------------------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5)
arrays = st.sampled_from(["f4", "f8", "i1", "u2", "i8", "?"]).flatmap(
    lambda kind: st.lists(st.integers(0, 1), max_size=4).map(lambda values: np.array(values, kind))
)
shaped = arrays.map(lambda a: a.reshape(-1, 1)) | st.just(np.array(2.5, np.float32)) | st.just(np.array([math.nan, math.inf]))
values = st.recursive(
    plain | arrays | shaped,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@settings(max_examples=200)
@given(values)
def test_arguments_of_environments_survive_json(value: Any) -> None:
    assert same(from_json(json.loads(json.dumps(to_json(value, "x"), allow_nan=False))), value)


@pytest.mark.parametrize("value", [np.int64(3), np.float32(0.5), np.bool_(True), np.str_("a")], ids=repr)
def test_numpy_scalars_become_python_numbers(value: Any) -> None:
    assert to_json(value, "x") == value.item()


def test_arguments_of_environments_are_saved_by_value(tmp_path: Path) -> None:
    table, pair = np.arange(6, dtype=np.float32).reshape(2, 3), (np.int64(1), (2.5, "a"))
    told: list[Any] = []

    def env(**kwargs: Any) -> Walk:
        told.append(kwargs)
        return Walk(**kwargs)

    options = {"run_dir": tmp_path / "run", "env_kwargs": {"table": table, "pair": pair, "length": np.int32(5)}}
    pyrl.train("random", env, total_steps=20, **options)
    pyrl.train("random", env, total_steps=40, resume=tmp_path / "run")
    pyrl.train("random", env, total_steps=60, resume=tmp_path / "run", env_kwargs=options["env_kwargs"])
    for kwargs in told:
        assert same(kwargs["table"], table)
        assert kwargs["pair"] == (1, (2.5, "a"))
        assert kwargs["length"] == 5


OBJECTS = [
    object(),
    lambda: 1,
    {1, 2},
    1j,
    b"x",
    {1: 2},
    np.array([object()]),
    np.zeros(2, complex),
    torch.zeros(2),
    Walk,
    np.datetime64("2026-01-01"),
]


@pytest.mark.parametrize(
    "inside", [lambda x: x, lambda x: [1, x], lambda x: (x,), lambda x: {"a": {"b": x}}], ids=["", "list", "tuple", "dict"]
)
@pytest.mark.parametrize("value", OBJECTS, ids=lambda v: type(v).__name__)
def test_arguments_that_cannot_be_saved_are_refused_before_training(value: Any, inside: Any, tmp_path: Path) -> None:
    made = []

    def env(**kwargs: Any) -> Walk:
        made.append(kwargs)
        return Walk(table=kwargs)

    kwargs = {"table": inside(value)}
    with pytest.raises(SettingError, match=r"train: env_kwargs\['table'\].* is .*, which cannot be saved with the run"):
        pyrl.train("random", env, total_steps=20, run_dir=tmp_path / "run", env_kwargs=kwargs)
    assert not made
    assert not (tmp_path / "run").exists()
    pyrl.train("random", env, total_steps=20, run_dir=False, env_kwargs=kwargs)
    assert made[0]["table"] is kwargs["table"]


def test_a_run_says_where_its_settings_come_from(tmp_path: Path) -> None:
    for env, name in (("CartPole-v1", "CartPole-v1"), ("MountainCar-v0", "MountainCar-v0"), ("CliffWalking-v1", None), (Walk, None)):
        folder = tmp_path / getattr(env, "__name__", str(env))
        pyrl.train("dqn", env, total_steps=10, run_dir=folder)
        assert RunFolder.open(folder).config["preset"] == name
