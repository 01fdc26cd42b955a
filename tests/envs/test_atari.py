"""Atari games: one preprocessing whatever runs them, whole games in the reports, and presets for all of them."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

import pyrl
from pyrl.envs import make
from pyrl.envs.inline import LeanStepper
from pyrl.experiment.presets import available_presets, preset, preset_name
from pyrl.loops.off_policy import OffPolicyLoop

needs_ale = pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed: pip install 'pyrl[atari]'")
needs_cv2 = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="opencv is not installed: pip install 'pyrl[atari]'")
GAMES = ["ALE/Breakout-v5", "ALE/Pong-v5"]
STILL: dict[str, Any] = {"repeat_action_probability": 0.0, "noop_max": 0}  # nothing left to chance


def play(env: str, steps: int, num_envs: int = 2, seed: int = 0, **options: Any) -> list[Any]:
    """Copies of what some random actions led to."""
    random = np.random.default_rng(0)
    with make(env, num_envs, seed=seed, **options) as stepper:
        stepper.reset()
        results = []
        for _ in range(steps):
            step = stepper.step(random.integers(0, stepper.single_action_space.n, num_envs))
            arrays = (step.next_observation, step.reward, step.terminated, step.truncated, step.valid)
            results.append((*(x.copy() for x in arrays), step.episodes))
    return results


@needs_ale
@needs_cv2
@pytest.mark.parametrize("env", GAMES)
@pytest.mark.parametrize("backend", ["lean", "sync"])
def test_backends_show_the_same_game(env: str, backend: Any) -> None:
    wanted, found = (play(env, 200, backend=b, env_kwargs=STILL) for b in ("vector", backend))
    assert any(not valid.all() for *_, valid, _ in wanted) == (env == "ALE/Breakout-v5")
    for ours, theirs in zip(found, wanted):
        for x, y in zip(ours, theirs):
            np.testing.assert_array_equal(x, y)


@needs_ale
def test_standard_observations_and_their_options() -> None:
    with make("ALE/Pong-v5", 2) as stepper:
        assert (stepper.single_observation_space.shape, stepper.single_observation_space.dtype) == ((4, 84, 84), np.uint8)
        assert (stepper.frames, stepper.episodic_life, stepper.autoreset.name) == ((4, "zero"), True, "SAME_STEP")
        first = stepper.reset()
        assert not first[:, :3].any()
        assert first[:, 3].any()
    smaller = {"stack_num": 2, "img_height": 42, "img_width": 50, "episodic_life": False}
    with make("ALE/Pong-v5", env_kwargs=smaller) as stepper:
        assert stepper.single_observation_space.shape == (2, 42, 50)
        assert (stepper.frames, stepper.episodic_life) == ((2, "zero"), False)
    with make("ALE/Pong-v5", autoreset="NEXT_STEP") as stepper:
        assert stepper.autoreset.name == "NEXT_STEP"
    with pytest.raises(TypeError, match="clip_reward is the agent's"):
        make("ALE/Pong-v5", env_kwargs={"reward_clipping": True})


@needs_ale
def test_reports_are_of_whole_games() -> None:
    steps = play("ALE/Breakout-v5", 700)
    episodes = [episode for *_, ended in steps for episode in ended]
    lost = sum(int(terminated.sum()) for _, _, terminated, *_ in steps)
    assert len(episodes) >= 2
    assert 4 * len(episodes) < lost - len(episodes) < 4 * (len(episodes) + 2)  # five lives, the last of which is the end
    returns, lengths = np.zeros(2), np.zeros(2, int)
    for _, reward, *_, ended in steps:
        returns += reward
        lengths += 1
        for episode in ended:
            i = episode.env_index
            assert (episode.episode_return, episode.length) == (returns[i], lengths[i])
            returns[i] = lengths[i] = 0


@needs_ale
@needs_cv2
def test_rewards_are_the_games_own() -> None:
    rewards = {r for backend in ("vector", "lean") for _, reward, *_ in play("ALE/Riverraid-v5", 150, backend=backend) for r in reward}
    assert max(rewards) >= 30


@needs_ale
@needs_cv2
@pytest.mark.parametrize("backend", ["vector", "lean"])
def test_a_game_goes_on_after_a_lost_life(backend: Any) -> None:
    """Who never presses FIRE would wait for ever; it is pressed after a lost life, in a step that is no transition."""
    options = {"repeat_action_probability": 0.0}  # a sticky action may swallow the FIRE at reset
    with make("ALE/Breakout-v5", backend=backend, env_kwargs=options) as stepper:
        assert (stepper.episodic_life, stepper.fires) == (True, True)
        stepper.reset()
        lost, ended, dead_next = 0, 0, False
        for _ in range(400):
            step = stepper.step(np.zeros(1, np.int64))
            assert bool(step.valid[0]) != dead_next
            dead_next = bool(step.terminated[0]) and not step.episodes
            lost, ended = lost + dead_next, ended + len(step.episodes)
    assert ended >= 1
    assert 4 * ended <= lost < 4 * (ended + 1) + 1


@needs_ale
def test_games_without_fire_have_no_step_of_their_own() -> None:
    with make("ALE/MsPacman-v5") as stepper:
        assert (stepper.episodic_life, stepper.fires) == (True, False)
    with make("ALE/Breakout-v5", env_kwargs={"episodic_life": False}) as stepper:
        assert (stepper.episodic_life, stepper.fires) == (False, False)


@needs_ale
def test_seeds() -> None:
    first, again, other = (play("ALE/Breakout-v5", 60, num_envs=3, seed=seed) for seed in (5, 5, 6))
    assert all(np.array_equal(x[0], y[0]) for x, y in zip(first, again))
    assert not all(np.array_equal(x[0], y[0]) for x, y in zip(first, other))
    assert any(not np.array_equal(x[0][0], x[0][1]) for x in first)


@needs_ale
@needs_cv2
@pytest.mark.parametrize("backend", ["vector", "lean"])
def test_time_limit_counts_steps(backend: Any) -> None:
    steps = play("ALE/Pong-v5", 45, backend=backend, max_episode_steps=20)
    assert [t + 1 for t, (*_, truncated, _, _) in enumerate(steps) if truncated.all()] == [20, 40]
    assert not any(terminated.any() for _, _, terminated, *_ in steps)
    assert {episode.length for *_, ended in steps for episode in ended} == {20}


@needs_ale
@needs_cv2
def test_pictures_and_wrappers_need_single_games() -> None:
    with make("ALE/Pong-v5", render_mode="rgb_array") as stepper:
        assert isinstance(stepper, LeanStepper)
        stepper.reset()
        assert stepper.render().shape == (210, 160, 3)
    seen: list[Any] = []
    with make("ALE/Pong-v5", wrapper=lambda env: seen.append(env) or env) as stepper:  # type: ignore[func-returns-value]
        assert isinstance(stepper, LeanStepper)
    assert seen[0].observation_space.shape == (4, 84, 84)


@needs_ale
@pytest.mark.parametrize("algo", ["ppo", "a2c", "dqn"])
def test_presets_train(algo: str) -> None:
    told = {"ppo": dict(n_steps=8, batch_size=32), "a2c": {}, "dqn": dict(learning_starts=60, buffer_size=500)}[algo]
    run = pyrl.train(algo, "ALE/Breakout-v5", total_steps=160, num_envs=4, run_dir=False, **told)
    engine = "graph" if run.agent.device.type == "cuda" else "torch"
    assert (run.agent.engine, run.agent.config.clip_reward, run.agent.config.net_arch) == (engine, 1.0, ())
    assert run.agent.updates > 0


@needs_ale
def test_replay_holds_single_pictures() -> None:
    with make("ALE/Breakout-v5", 2, env_kwargs={"episodic_life": False}) as stepper:
        spaces = stepper.single_observation_space, stepper.single_action_space
        agent = pyrl.make_agent("dqn", *spaces, num_envs=2, buffer_size=400, learning_starts=10_000)
        loop = pyrl.iterate(agent, stepper, total_steps=300)
        assert isinstance(loop, OffPolicyLoop)
        for _ in loop:
            pass
        assert loop.buffer.nbytes < 400 * 84 * 84 * 1.05
        assert loop.buffer.sample(8).observation.shape == (8, 4, 84, 84)


def test_one_preset_for_every_game() -> None:
    for algo in ("ppo", "a2c", "dqn"):
        assert (algo, "ALE/*-v5") in available_presets()
        assert preset(algo, "ALE/Pong-v5") == preset(algo, "ALE/MsPacman-v5")
        assert preset_name(algo, "ALE/Pong-v5") is not None
        assert preset(algo, "ALE/Pong-v5").total_steps == 10_000_000
        assert preset_name(algo, "Pong-v5") is None
    assert preset("ppo", "ALE/Pong-v5").num_envs == 8
    assert preset_name("sac", "ALE/Pong-v5") is None


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyrl\[atari\]'"):
        make("ALE/Pong-v5")
