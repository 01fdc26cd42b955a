"""Training as a whole: run folders, evaluation, stopping, going on, and what is refused."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import pyrl
from pyrl import checkpoint, ops
from pyrl.agents.checkpoints import save_agent
from pyrl.errors import CheckpointError, NonFiniteError, SpaceError, UnknownNameError
from pyrl.experiment.metrics import read_csv
from pyrl.experiment.presets import preset
from pyrl.experiment.runs import RunFolder

PPO = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "net_arch": (8,), "num_envs": 4}
DQN = {
    "buffer_size": 500,
    "train_freq": 2,
    "gradient_steps": 1,
    "learning_starts": 20,
    "batch_size": 16,
    "net_arch": (8,),
    "num_envs": 2,
    "n_step": 3,
}
QUICK = {"random": {"num_envs": 2, "n_steps": 8}, "ppo": PPO, "dqn": DQN}


class Counter(gym.Env):
    """Reward 1 a step, random length; the final observation tells the length."""

    observation_space = spaces.Box(-100, 100, (2,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(3, 9))
        return np.float32([0, self.length]), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.float32([self.t, self.length]), 1.0, self.t == self.length, False, {"is_success": self.length > 5}


def weights(agent: pyrl.Agent) -> list[torch.Tensor]:
    return [p.detach().clone() for m in agent.modules().values() for p in m.parameters()]


@pytest.mark.parametrize("algo", QUICK)
def test_a_run_leaves_everything(algo: str, tmp_path: Path) -> None:
    run = pyrl.train(algo, "CartPole-v1", total_steps=400, run_dir=tmp_path / "run", eval_every=200, eval_episodes=2, seed=3, **QUICK[algo])
    folder = RunFolder.open(tmp_path / "run")
    assert folder.config["seed"] == 3
    for file in (folder.metrics_file, folder.episodes_file, folder.curve_file):
        assert file.stat().st_size > 0
    rows = folder.metrics_file.read_text().splitlines()
    assert len(rows) == len(run.metrics) + 1
    assert len(folder.episodes_file.read_text().splitlines()) == run.metrics[-1]["time/episodes"] + 1
    assert [step for step, _ in run.evaluations] == sorted(step for step, _ in run.evaluations)
    assert len(run.evaluations) >= 1
    again = pyrl.load(folder.last)
    assert all(torch.equal(a, b) for a, b in zip(weights(run.agent), weights(again)))
    assert json.loads((folder.path / "config.json").read_text())["algo"] == algo


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_going_on_is_exact(algo: str, tmp_path: Path) -> None:
    """Cut mode: stopping at N and resuming in a new agent from the files equals a reset at N in the same one, bit for bit."""
    options = QUICK[algo]
    # In one process, one agent: the loop is stopped at N, reset, and iterated again.
    env = pyrl.envs.make("CartPole-v1", options["num_envs"])
    config = {**preset(algo, "CartPole-v1").config, **{k: v for k, v in options.items() if k != "num_envs"}}
    agent = pyrl.make_agent(algo, env.single_observation_space, env.single_action_space, num_envs=options["num_envs"], **config)
    loop = pyrl.iterate(agent, env, 512)
    for metrics in loop:
        if metrics["time/env_steps"] >= 256:
            break
    loop.reset()
    *_, last = loop
    # From the files.
    pyrl.train(algo, "CartPole-v1", total_steps=512, run_dir=tmp_path / "run", on_metrics=lambda m: m["time/env_steps"] >= 256, **options)
    run = pyrl.train(algo, "CartPole-v1", resume=tmp_path / "run")
    assert run.agent.env_steps == agent.env_steps
    assert all(torch.equal(a, b) for a, b in zip(weights(run.agent), weights(agent)))
    assert run.agent.random.state == agent.random.state
    same = [k for k in last if "second" not in k and k in run.metrics[-1] and not k.startswith(("loss/", "train/"))]
    assert {k: run.metrics[-1][k] for k in same} == {k: last[k] for k in same}
    steps = [line.split(",")[0] for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert [int(s) for s in steps] == sorted({int(s) for s in steps})


def test_limits_and_stop_rules() -> None:
    run = pyrl.train("random", Counter, total_episodes=50, run_dir=False, num_envs=4)
    assert run.metrics[-1]["time/episodes"] == 50
    assert sum(len(m.episodes) for m in run.metrics) == 50
    assert run.dir is None
    assert run.ending == "total_episodes: 50 reached"
    run = pyrl.train("random", Counter, total_steps=100, run_dir=False, on_metrics=lambda m: True, n_steps=16)
    assert run.ending == "stopped before any limit"
    for message, limits in {
        "total_steps is 0, expected a whole number of at least 1": {"total_steps": 0},
        "total_episodes is -1, expected a whole number of at least 1": {"total_episodes": -1},
        "total_steps is 10.5, expected a whole number of at least 1": {"total_steps": 10.5},
        "total_episodes is nan, expected a whole number of at least 1": {"total_episodes": math.nan},
        "stop_window is 0, expected an integer in \\[1, 100\\]": {"stop_window": 0, "total_steps": 1},
        "stop_window is 101, expected": {"stop_window": 101, "total_steps": 1},
        "stop_at_return is nan": {"stop_at_return": math.nan, "total_steps": 1},
    }.items():
        with pytest.raises(ValueError, match=message):
            pyrl.train("random", Counter, run_dir=False, **limits)
    with pytest.raises(TypeError, match="train: total_steps is '100', expected a whole number"):
        pyrl.train("random", Counter, run_dir=False, total_steps="100")  # type: ignore[arg-type]
    assert pyrl.train("random", Counter, run_dir=False, total_steps=1e2).ending == "total_steps: 100 reached"  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(QUICK)), st.integers(1, 20), st.floats(4.0, 7.0), st.integers(0, 99))
def test_the_run_stops_with_the_episode_that_reaches_the_return(algo: str, window: int, goal: float, seed: int) -> None:
    """Not one episode later, with the parameters of then."""
    run = pyrl.train(algo, Counter, total_steps=1500, stop_at_return=goal, stop_window=window, seed=seed, run_dir=False, **QUICK[algo])
    returns = np.array([episode.episode_return for metrics in run.metrics for episode in metrics.episodes])
    means = [returns[i - window : i].mean() for i in range(window, len(returns) + 1)]
    reached = run.ending.startswith("stop_at_return")
    assert reached == (bool(means) and means[-1] >= goal)
    assert all(mean < goal for mean in means[:-1])
    assert reached or run.agent.env_steps >= 1500


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_nothing_is_learned_after_the_return_was_reached(algo: str) -> None:
    env = pyrl.envs.make(Counter, QUICK[algo]["num_envs"])
    options = {**QUICK[algo], "train_freq": 64} if algo == "dqn" else QUICK[algo]
    agent = pyrl.make_agent(algo, env.single_observation_space, env.single_action_space, **options)
    loop = pyrl.iterate(agent, env, 10_000, stop_at_return=6.5, stop_window=12)
    *_, before, last = loop
    assert loop.goal_reached
    assert before["time/updates"] == last["time/updates"] > 0
    assert not any(key.startswith("loss/") for key in last)


def test_evaluations_are_rows_of_the_metrics(tmp_path: Path) -> None:
    run = pyrl.train("random", Counter, total_steps=300, eval_every=100, eval_episodes=7, run_dir=tmp_path / "run", n_steps=10)
    rows = read_csv(tmp_path / "run" / "metrics.csv")
    done = np.isfinite(rows["evaluation/return_mean"])
    assert [step for step, _ in run.evaluations] == rows["time/env_steps"][done].tolist() == [100, 200, 300]
    for name, of in {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}.items():
        np.testing.assert_allclose(rows[f"evaluation/return_{name}"][done], [of(scores.returns) for _, scores in run.evaluations])
    np.testing.assert_allclose(rows["evaluation/length_mean"][done], [scores.lengths.mean() for _, scores in run.evaluations])
    np.testing.assert_allclose(rows["evaluation/success_rate"][done], [scores.success_rate for _, scores in run.evaluations])


def test_evaluation_is_fixed_by_its_seed_and_touches_nothing() -> None:
    agent = pyrl.make_agent("random", Counter.observation_space, Counter.action_space)
    state = agent.random.state
    first = pyrl.evaluate(agent, Counter, episodes=50)
    assert agent.random.state == state
    again = pyrl.evaluate(agent, Counter, episodes=50)
    other = pyrl.evaluate(agent, Counter, episodes=50, seed=5)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert (first.returns != other.returns).any()
    np.testing.assert_array_equal(first.returns, first.lengths)
    assert first.mean == pytest.approx(5.5, abs=1.0)  # not biased to short episodes
    assert first.success_rate == pytest.approx(np.mean(first.lengths > 5))
    with pytest.raises(ValueError, match="episodes is 0"):
        pyrl.evaluate(agent, Counter, episodes=0)


def test_wrong_environments_and_names() -> None:
    agent = pyrl.make_agent("ppo", spaces.Box(-1, 1, (3,)), spaces.Discrete(2), num_envs=2)
    with pytest.raises(SpaceError, match=r"iterate: the environment's observation_space is .*, expected Box"):
        pyrl.iterate(agent, Counter, 100)
    with pytest.raises(ValueError, match="env has 3 environments, expected 1"):
        pyrl.iterate(pyrl.make_agent("random", Counter.observation_space, Counter.action_space), pyrl.envs.make(Counter, 3), 100)
    with pytest.raises(UnknownNameError, match="unknown algorithm 'pppo'; did you mean ppo"):
        pyrl.train("pppo", "CartPole-v1", run_dir=False)
    with pytest.raises(UnknownNameError, match="CartPole-v1"):
        pyrl.train("ppo", "CartPol-v1", run_dir=False)
    with pytest.raises(UnknownNameError, match="unknown algorithm 'CartPole-v1'; did you mean ppo CartPole-v1, the algorithm first"):
        pyrl.train("CartPole-v1", "ppo", run_dir=False)
    with pytest.raises(UnknownNameError, match="ppo has no option 'total_timesteps'; did you mean total_steps"):
        pyrl.train("ppo", "CartPole-v1", total_timesteps=100, run_dir=False)
    with pytest.raises(TypeError, match="iterate: agent is 'ppo', expected an agent"):
        pyrl.iterate("ppo", "CartPole-v1", 100)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="evaluate: agent is 'ppo', expected an agent"):
        pyrl.evaluate("ppo", "CartPole-v1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="PPOConfig: learning_rate is 'fast', expected a positive number or 'linear_<number>'"):
        pyrl.make_agent("ppo", Counter.observation_space, Counter.action_space, learning_rate="fast")


def test_a_checkpoint_for_other_spaces_is_refused(tmp_path: Path) -> None:
    pyrl.train("ppo", "CartPole-v1", total_steps=64, run_dir=tmp_path / "run", **PPO)
    with pytest.raises((SpaceError, CheckpointError), match="space"):
        pyrl.train("ppo", Counter, resume=tmp_path / "run", total_steps=128)


def test_the_environment_may_be_a_vector_env_in_any_mode() -> None:
    returns = []
    for mode in gym.vector.AutoresetMode.SAME_STEP, gym.vector.AutoresetMode.NEXT_STEP:
        env = gym.make_vec("CartPole-v1", 4, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
        run = pyrl.train("ppo", env, total_steps=2000, run_dir=False, **{k: v for k, v in PPO.items() if k != "num_envs"})
        assert run.agent.num_envs == 4
        assert all(math.isfinite(v) for m in run.metrics for v in m.values())
        returns.append(run.metrics[-1]["episode/return_mean"])
    assert min(returns) > 10


def test_an_environment_that_fails_says_which_and_the_run_keeps_its_files(tmp_path: Path) -> None:
    class Fails(Counter):
        def step(self, action: int) -> Any:
            if self.t == 2:
                raise RuntimeError("sensor lost")
            return super().step(action)

    with pytest.raises(pyrl.errors.EnvError, match=r"environment 0 \(seed \d+, step \d+\).*sensor lost"):
        pyrl.train("random", Fails, total_steps=100, run_dir=tmp_path / "run", num_envs=2)
    config = RunFolder.open(tmp_path / "run").config
    assert config["ending"].startswith("an error: EnvError: Fails: environment 0 (seed ")
    error = config["error"]
    assert (error["type"], error["cause"], error["env_index"]) == ("EnvError", "RuntimeError: sensor lost", 0)
    assert f"(seed {error['env_seed']}, step 2)" in error["message"]
    assert any('raise RuntimeError("sensor lost")' in line for line in error["traceback"])
    assert "sensor lost" in error["traceback"][-1]
    counted = read_csv(tmp_path / "run" / "metrics.csv")
    assert counted["time/env_steps"][-1] == 4  # two steps of two environments, though their round was broken off
    agent = pyrl.train("random", Counter, resume=tmp_path / "run").agent  # the environment is mended
    assert agent.env_steps == 100
    assert not {"error", "save_failure"} & set(RunFolder.open(tmp_path / "run").config)


def test_batches_that_can_never_be_filled_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size is 200, expected a value in \[1, 100\]"):
        pyrl.train("dqn", Counter, total_steps=100, run_dir=False, buffer_size=100, batch_size=200)
    with pytest.raises(ValueError, match="batch_size is 1000, but a rollout holds only n_steps \\* num_envs = 32 transitions"):
        pyrl.train("ppo", Counter, total_steps=100, run_dir=False, n_steps=8, num_envs=4, batch_size=1000)


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("size", [2, 5, 20, 64])
def test_a_replay_as_small_as_its_batch_is_learned_from(size: int, prioritized: bool) -> None:
    """The tails of episodes are slots too, so that fewer transitions than a batch can be drawn."""
    options = {"buffer_size": size, "batch_size": size, "learning_starts": 0, "num_envs": 1, "prioritized": prioritized}
    run = pyrl.train("dqn", Counter, total_steps=300, run_dir=False, **options)
    assert run.agent.updates > 50


@pytest.mark.parametrize(("options", "first"), [({"learning_starts": 500}, 500), ({"batch_size": 400}, 400), ({}, 20)])
def test_a_run_that_learns_nothing_says_so(options: dict[str, int], first: int) -> None:
    run = pyrl.train("dqn", Counter, total_steps=200, run_dir=False, **{**DQN, **options})
    silent = f"; nothing was learned: updates begin after {first} steps (learning_starts, batch_size)" if first > 200 else ""
    assert run.ending == f"total_steps: 200 reached{silent}"
    assert (run.agent.updates == 0) == bool(silent)


def test_a_run_knows_its_own_steps_and_seconds(tmp_path: Path) -> None:
    seconds = []
    for total, new in ((96, 96), (160, 64), (160, 0)):
        again = {"resume": tmp_path / "run"} if seconds else {"run_dir": tmp_path / "run", **PPO}
        run = pyrl.train("ppo", "CartPole-v1", total_steps=total, on_metrics=lambda _: time.sleep(0.02), **again)
        assert (run.new_steps, run.agent.env_steps) == (new, total)
        seconds.append(run.seconds)
    assert min(seconds[:2]) > 0.02
    assert seconds[2] < 0.02  # no round was made


class Exploding(gym.Env):
    """Rewards become so large that squares of them are no numbers any more."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.zeros(2, np.float32), 1e38 if self.steps > 100 else 1.0, self.steps % 10 == 0, False, {}


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_an_update_that_is_not_finite_leaves_its_data_behind(algo: str, engine: str, tmp_path: Path) -> None:
    small = {"ppo": {"n_steps": 16, "batch_size": 16}, "dqn": {"learning_starts": 16, "train_freq": 1, "loss": "mse"}}[algo]
    with pytest.raises(NonFiniteError, match=r"the weights are as they were before it, the data lie in .*failure"):
        pyrl.train(algo, Exploding, total_steps=2_000, num_envs=1, run_dir=tmp_path / "run", engine=engine, **small)
    tree, about = checkpoint.load(tmp_path / "run" / "failure")
    assert np.max(tree["data"]["reward"]) == np.float32(1e38)
    assert "inf" in about["error"] or "not finite" in about["error"]
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()


def test_training_gives_both_engines_its_threads_and_gives_them_back() -> None:
    ops.set_num_threads(3)
    seen = []
    pyrl.train(
        "random",
        "CartPole-v1",
        total_steps=10,
        run_dir=False,
        threads=2,
        on_metrics=lambda _: seen.append((torch.get_num_threads(), ops.num_threads())),
    )
    assert set(seen) == {(2, 2)}
    assert (torch.get_num_threads(), ops.set_num_threads(0)) == (1, 3)


def test_checkpoints_kept_at_intervals_of_episodes(tmp_path: Path) -> None:
    run = pyrl.train("dqn", "CartPole-v1", total_episodes=25, save_every_episodes=10, run_dir=tmp_path / "run", **DQN)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("episode_*"))
    assert kept == ["episode_10", "episode_20"]
    early, late = (pyrl.load(tmp_path / "run" / "checkpoints" / name) for name in kept)
    assert 0 < early.env_steps < late.env_steps < run.agent.env_steps


@pytest.mark.parametrize("value", [0, "3", 2.5, True])
@pytest.mark.parametrize("name", ["eval_every", "eval_episodes", "save_every_episodes", "threads"])
def test_counts_are_at_least_one(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected an integer of at least 1"):
        pyrl.train("random", "CartPole-v1", total_steps=10, run_dir=False, **{name: value})


def test_an_agent_is_evaluated_only_where_it_fits() -> None:
    agent = pyrl.train("random", "CartPole-v1", total_steps=10, run_dir=False).agent
    with pytest.raises(SpaceError, match="learned elsewhere than in Pendulum-v1: in its observation_space, the space has shape"):
        pyrl.evaluate(agent, "Pendulum-v1", 1)


def test_resuming_from_another_checkpoint_than_the_last_is_refused(tmp_path: Path) -> None:
    pyrl.train("ppo", "CartPole-v1", total_steps=64, run_dir=tmp_path / "run", **PPO)
    save_agent(tmp_path / "run" / "checkpoints" / "episode_3", pyrl.load(tmp_path / "run" / "checkpoints" / "last"))
    with pytest.raises(ValueError, match="expected the run's folder"):
        pyrl.train("ppo", "CartPole-v1", resume=tmp_path / "run" / "checkpoints" / "episode_3")


@pytest.mark.parametrize(
    ("field", "value", "kind"), [("n_epochs", 2.5, "an integer"), ("gamma", "x", "a number"), ("batch_size", True, "an integer")]
)
def test_config_fields_are_of_their_kind(field: str, value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"PPOConfig: {field} is {value!r}, expected {kind}"):
        pyrl.train("ppo", "CartPole-v1", total_steps=10, run_dir=False, **{**PPO, field: value})


def test_a_run_is_shown_in_one_line() -> None:
    run = pyrl.train("random", "CartPole-v1", total_steps=300, run_dir=False)
    assert repr(run).startswith("Run(random, 300 steps, mean return of the last episodes ")
    assert len(repr(run)) < 200
