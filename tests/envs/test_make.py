"""`make`: what it accepts, what it refuses and in which words; EnvPool; environments that go wrong."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_envs import Faulty, Scripted, ToyVector

from pyrl.envs import Stepper, make
from pyrl.envs.inline import LeanStepper, peel
from pyrl.errors import DTypeError, EnvError, NonFiniteError, ShapeError, SpaceError, UnknownNameError
from pyrl.seeding import stream_seed
from pyrl.spaces import difference

needs_envpool = pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="envpool is not installed")
GUARDED: list[Any] = ["lean", "sync", "async", "processes"]


def one_of_three(fault: str, at: int = 3) -> Any:
    """Only environment 1 goes wrong; made in turn, with one more to look at for async."""
    made = iter([None, fault, None])
    return lambda: Faulty(next(made), at)


def drive(stepper: Stepper, count: int = 8) -> None:
    stepper.reset()
    for _ in range(count):
        stepper.step(np.array([0, 2, 1]))


class FaultyByIndex(Faulty):
    """For async, whose workers cannot count together: goes wrong where the seed is that of environment 1."""

    def __init__(self, bad: str, at: int = 3) -> None:
        super().__init__(None, at)
        self.bad = bad

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed == stream_seed(7, "env", 1):
            self.fault = self.bad
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("backend", GUARDED)
class TestFaults:
    def stepper(self, backend: Any, fault: str, at: int = 3) -> Stepper:
        return make(FaultyByIndex, 3, backend=backend, seed=7, env_kwargs=dict(bad=fault, at=at))

    def test_step_raises(self, backend: Any) -> None:
        seed = stream_seed(7, "env", 1)
        words = rf"environment 1 \(seed {seed}, step 2\): step raised ZeroDivisionError: wheels came off \(action 2\)"
        with self.stepper(backend, "raise") as stepper, pytest.raises(EnvError, match=words) as caught:
            drive(stepper)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert stepper.closed

    def test_reset_raises(self, backend: Any) -> None:
        with (
            self.stepper(backend, "reset", at=0) as stepper,
            pytest.raises(EnvError, match=r"environment 1 .*reset raised KeyError: 'no ground"),
        ):
            drive(stepper)
        with (
            self.stepper(backend, "reset") as stepper,
            pytest.raises(EnvError, match=r"environment 1 .*reset raised KeyError: 'no ground"),
        ):
            drive(stepper)

    @pytest.mark.parametrize("fault", ["nan", "inf"])
    def test_observation_not_finite(self, backend: Any, fault: str) -> None:
        with (
            self.stepper(backend, fault) as stepper,
            pytest.raises(EnvError, match=r"environment 1 .*observation that is not finite"),
        ):
            drive(stepper)

    def test_reset_observation_not_finite(self, backend: Any) -> None:
        with self.stepper(backend, "reset nan") as stepper, pytest.raises(EnvError, match=r"1 .*not finite"):
            stepper.reset()

    def test_reward_not_finite(self, backend: Any) -> None:
        with (
            self.stepper(backend, "nan reward") as stepper,
            pytest.raises(EnvError, match=r"environment 1 .*the reward nan"),
        ):
            drive(stepper)

    def test_reward_is_no_number(self, backend: Any) -> None:
        with self.stepper(backend, "text reward") as stepper, pytest.raises(EnvError, match=r"environment 1 .*much"):
            drive(stepper)

    def test_wrong_shape(self, backend: Any) -> None:
        with (
            self.stepper(backend, "shape") as stepper,
            pytest.raises(EnvError, match=r"environment 1 .*shape \[3\], expected \[2\]"),
        ):
            drive(stepper)

    def test_no_observation(self, backend: Any) -> None:
        with self.stepper(backend, "none") as stepper, pytest.raises(EnvError, match=r"environment 1 .*expected"):
            drive(stepper)

    def test_reset_mends(self, backend: Any) -> None:
        with self.stepper(backend, "raise") as stepper:
            with pytest.raises(EnvError):
                drive(stepper)
            with pytest.raises(EnvError, match="before reset"):
                stepper.step(np.zeros(3, np.int64))
            assert stepper.observation is None
            stepper.reset()
            assert stepper.step(np.zeros(3, np.int64)).reward.tolist() == [1, 1, 1]


def test_wrong_dtype() -> None:
    with (
        make(one_of_three("dtype"), 3) as stepper,
        pytest.raises(EnvError, match=r"environment 1 .*dtype complex64, expected float32"),
    ):
        drive(stepper)


def test_huge_finite_numbers_are_no_fault() -> None:
    class Huge(Faulty):
        def step(self, action: Any) -> Any:
            return np.full(2, 3e38, np.float32), 1e200, False, False, {}

    with make(Huge, 3) as stepper:
        drive(stepper, 3)


def test_large_observations_are_checked_too() -> None:
    class Large(Faulty):
        observation_space = spaces.Box(-np.inf, np.inf, (64, 64))

        def reset(self, **_: Any) -> Any:
            self.t = 0
            return np.zeros((64, 64), np.float32), {}

        def step(self, action: Any) -> Any:
            _, reward, terminated, truncated, info = super().step(action)
            observation = np.full((64, 64), 1e38, np.float32)
            observation[63, 63] = np.nan if self.t == 3 and self.fault else 0
            return observation, reward, terminated, truncated, info

    made = iter([None, None, "nan"])
    with make(lambda: Large(next(made)), 3) as stepper, pytest.raises(EnvError, match=r"environment 2 .*not finite"):
        drive(stepper)


def test_own_vector_env_raises() -> None:
    env = SyncVectorEnv([lambda: Faulty("raise")] * 3)
    with (
        make(env, seed=3) as stepper,
        pytest.raises(EnvError, match=r"3 environments, seed 3\): step raised ZeroDivisionError.*\[0, 2, 1\]"),
    ):
        drive(stepper)


def test_close_reaches_every_environment() -> None:
    class Stuck(Scripted):
        def close(self) -> None:
            super().close()
            raise OSError("door is jammed")

    stepper = make(lambda: Stuck([(2, "terminated")]), 2)
    with pytest.raises(EnvError, match="close raised OSError: door is jammed"):
        stepper.close()
    assert isinstance(stepper, LeanStepper)
    assert all(env.unwrapped.closed for env in stepper.envs)
    stepper.close()
    with pytest.raises(EnvError, match="reset after close"):
        stepper.reset()


class TestActions:
    def stepper(self, action: str, backend: Any = "lean") -> Stepper:
        stepper = make(lambda: Scripted([(5, "terminated")], "box", action), 2, backend=backend)
        stepper.reset()
        return stepper

    @pytest.mark.parametrize("backend", ["lean", "sync"])
    def test_wrong_actions_change_nothing(self, backend: Any) -> None:
        with self.stepper("discrete_start", backend) as stepper:
            before = np.copy(stepper.observation)
            for action, error, words in (
                (np.array([0, 3]), ValueError, "environment 1 is 3, expected at least 0 and less than 3"),
                (np.array([-2, 0]), ValueError, "environment 0 is -2"),
                (np.array([[0], [1]]), ShapeError, r"shape \[2, 1\], expected \[N, ...\] = \[2\]"),
                (np.array([0.0, 1.0]), DTypeError, "float64, expected int64"),
                (np.array([0]), ShapeError, r"shape \[1\]"),
            ):
                with pytest.raises(error, match=words):
                    stepper.step(action)
            np.testing.assert_array_equal(stepper.observation, before)
            assert stepper.step(np.array([0, 2], np.int32)).reward.tolist() == [1 - 0.5, 1 + 0.0]

    @pytest.mark.parametrize("backend", ["lean", "sync"])
    def test_multi_discrete_and_box(self, backend: Any) -> None:
        with (
            self.stepper("multi_discrete", backend) as stepper,
            pytest.raises(ValueError, match=r"environment 1 is \[0, 2\]"),
        ):
            stepper.step(np.array([[2, 1], [0, 2]]))
        with (
            self.stepper("box", backend) as stepper,
            pytest.raises(NonFiniteError, match="environment 1 is not finite"),
        ):
            stepper.step(np.array([[0, 1], [np.nan, 0]], np.float32))

    def test_float64_and_torch_actions(self) -> None:
        torch = pytest.importorskip("torch")
        with self.stepper("box") as stepper:
            assert stepper.step(np.array([[0.5, 7.0], [0, 0]])).reward.tolist() == [1 + 0.375, 1.0]
            assert stepper.step(torch.tensor([[0.5, 7.0], [0, 0]])).reward.tolist() == [2 + 0.375, 2.0]


class TestNames:
    @pytest.mark.parametrize(
        ("env", "words"),
        [
            ("CartPol-v1", "unknown environment 'CartPol-v1'; did you mean CartPole-v1"),
            ("cartpole-v1", "did you mean CartPole-v1"),
            ("LunarLander-v2", "did you mean LunarLander-v3.*deprecated"),
            ("CartPole-v7", "did you mean CartPole-v1"),
            ("nomodule_here:Env-v0", "unknown environment 'nomodule_here:Env-v0'"),
            ("Nowhere/Land-v0", "unknown environment 'Nowhere/Land-v0'"),
            ("not an id!", "unknown environment"),
        ],
    )
    def test_unknown(self, env: str, words: str) -> None:
        with pytest.raises(UnknownNameError, match=words):
            make(env)

    def test_missing_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (
            "Box2D",
            "gymnasium.envs.box2d",
            "gymnasium.envs.box2d.lunar_lander",
            "ale_py",
            "mujoco",
            "envpool",
        ):
            monkeypatch.setitem(sys.modules, module, None)
        needs = "needs a package that is not installed: pip install"
        with pytest.raises(ModuleNotFoundError, match=rf"LunarLander-v3 {needs} 'pyrl\[box2d\]'") as caught:
            make("LunarLander-v3")
        assert caught.value.__cause__ is not None
        with pytest.raises(ModuleNotFoundError, match=rf"ALE/Pong-v5 {needs} 'pyrl\[atari\]'"):
            make("ALE/Pong-v5")
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyrl\[mujoco\]'"):
            make("Ant-v5", backend="sync")
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyrl\[envpool\]'"):
            make("CartPole-v1", backend="envpool")

    def test_names(self) -> None:
        with make("CartPole-v1") as a, make(lambda: gym.make("CartPole-v1")) as b, make(Faulty) as c:
            assert (a.name, b.name, c.name) == ("CartPole-v1", "CartPole-v1", "Faulty")
            assert a.spec.max_episode_steps == b.spec.max_episode_steps == 500
            assert c.spec is None


class TestArguments:
    @pytest.mark.parametrize("num_envs", [0, -1, 1.5, "8", True])
    def test_num_envs(self, num_envs: Any) -> None:
        with pytest.raises(ValueError, match=r"num_envs is .*, expected an integer of at least 1"):
            make("CartPole-v1", num_envs)

    def test_refusals(self) -> None:
        vector = ToyVector([Scripted([(2, "terminated")])] * 2, AutoresetMode.NEXT_STEP, None)
        same, wrong, gives = Faulty(), cast(Any, "asink"), cast(Any, lambda: vector)
        for error, words, call in (
            (UnknownNameError, "backend is 'asink'; did you mean async", lambda: make("CartPole-v1", backend=wrong)),
            (ValueError, "max_episode_steps is 0", lambda: make("CartPole-v1", max_episode_steps=0)),
            (ValueError, "lean backend is SAME_STEP", lambda: make("CartPole-v1", autoreset="next_step")),
            (
                ValueError,
                "autoreset is 'sometimes', expected one of NEXT_STEP",
                lambda: make("CartPole-v1", autoreset="sometimes"),
            ),
            (ValueError, "Pendulum-v1 has no vector entry point", lambda: make("Pendulum-v1", backend="vector")),
            (ValueError, "needs an environment id, got Faulty", lambda: make(Faulty, backend="vector")),
            (ValueError, "same object more than once", lambda: make(lambda: same, 2)),
            (ValueError, "num_envs is 3, but the vector environment has 2", lambda: make(vector, 3)),
            (ValueError, "max_episode_steps cannot be applied", lambda: make(vector, max_episode_steps=9)),
            (ValueError, "is a vector environment already", lambda: make(vector, backend="lean")),
            (TypeError, "env is Faulty.*pass a callable", lambda: make(same)),  # type: ignore[arg-type]
            (TypeError, "env is int", lambda: make(3)),  # type: ignore[arg-type]
            (TypeError, "returned ToyVector.*pass the vector environment itself", lambda: make(gives)),
        ):
            with pytest.raises(error, match=words):
                call()

    def test_unsupported_spaces(self) -> None:
        class Odd(Faulty):
            observation_space = spaces.Dict({"words": spaces.Text(3)})  # type: ignore[assignment]

        class Strange(Faulty):
            action_space = spaces.Tuple((spaces.Discrete(2),))  # type: ignore[assignment]

        with pytest.raises(SpaceError, match="Odd: entry 'words': observation_space is Text"):
            make(Odd)
        with pytest.raises(SpaceError, match=r"Strange: action_space is Tuple.*expected Discrete, MultiDiscrete, MultiBinary or Box"):
            make(Strange, backend="sync")

    @pytest.mark.parametrize("backend", ["lean", "sync"])
    def test_environments_of_different_spaces(self, backend: Any) -> None:
        made = iter([3, 4])

        class Differs(Faulty):
            def __init__(self) -> None:
                super().__init__()
                self.action_space = spaces.Discrete(next(made))

        with pytest.raises(SpaceError, match="differ"):
            make(Differs, 2, backend=backend)

    @pytest.mark.parametrize("backend", ["lean", "sync"])
    def test_wrapper_and_kwargs(self, backend: Any) -> None:
        def halved(env: gym.Env) -> gym.Env:
            return gym.wrappers.TransformReward(env, lambda r: r / 2)

        options: dict[str, Any] = dict(backend=backend, wrapper=halved, max_episode_steps=3)
        with make(Scripted, 1, env_kwargs={"script": [(9, "terminated")]}, **options) as stepper:
            stepper.reset()
            steps = [stepper.step(np.array([0])) for _ in range(3)]
            assert steps[2].truncated[0]
            assert not steps[2].terminated[0]
            assert steps[2].episodes[0].episode_return == (1 + 2 + 3) / 2

    @pytest.mark.parametrize("backend", GUARDED)
    def test_render(self, backend: Any) -> None:
        script = {"script": [(9, "terminated")]}
        with make(Scripted, 2, backend=backend, env_kwargs=script, render_mode="rgb_array") as stepper:
            stepper.reset()
            stepper.step(np.zeros(2, np.int64))
            assert stepper.render().shape == (4, 6, 3)
            assert stepper.render().max() == 1
        with (
            make(Scripted, backend=backend, env_kwargs=script) as stepper,
            pytest.raises(ValueError, match="render_mode='rgb_array'"),
        ):
            stepper.render()

    def test_lean_steps_past_checks_and_counters(self) -> None:
        with make("CartPole-v1") as stepper:
            assert isinstance(stepper, LeanStepper)
            assert type(stepper._inner[0]).__name__ == "CartPoleEnv"
            assert peel(stepper.envs[0])[1] == 500
            assert stepper.envs[0].render_mode is None


@needs_envpool
class TestEnvPool:
    def collect(self, stepper: Stepper, steps: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(1)
        stepper.reset(seed)
        observations, valid = [], []
        for _ in range(steps):
            before = np.copy(stepper.observation)
            dead = ~stepper.step(random.integers(0, 2, 3)).valid  # a dead step follows an end, and only that
            observations.append(before)
            valid.append(~dead)
        return np.array(observations), np.array(valid)

    def test_seeds_and_dead_steps(self) -> None:
        with make("CartPole-v1", 3, backend="envpool", seed=5) as one, make("CartPole-v1", 3, backend="envpool") as two:
            assert one.autoreset is AutoresetMode.NEXT_STEP
            assert one.name == "CartPole-v1"
            first, again, other = self.collect(one, 80, None), self.collect(two, 80, 5), self.collect(one, 80, 6)
            back = self.collect(one, 80, 5)
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[0], back[0])
        assert not np.array_equal(first[0], other[0])
        assert not np.array_equal(first[0][0, 0], first[0][0, 1])
        assert not first[1].all()
        assert first[1].mean() > 0.9

    def test_moves_as_gymnasium_does(self) -> None:
        """From the same state the same dynamics: one environment is set to the other's state at every step."""
        with make("CartPole-v1", 1, backend="envpool", max_episode_steps=7) as stepper:
            stepper.reset()
            model = gym.make("CartPole-v1").unwrapped
            model.reset(seed=0)
            lengths = []
            for k in range(60):
                model.state = tuple(float(x) for x in stepper.observation[0])  # type: ignore[attr-defined]
                step = stepper.step(np.array([k % 2]))
                if step.valid[0]:
                    observation, reward, terminated, _, _ = model.step(k % 2)
                    np.testing.assert_allclose(step.next_observation[0], observation, atol=1e-5)
                    assert step.reward[0] == reward
                    assert step.terminated[0] == terminated
                lengths += [e.length for e in step.episodes]
            assert set(lengths) == {7}

    def test_spaces_are_gymnasiums(self) -> None:
        with make("LunarLander-v3", 2, backend="envpool") as pool, make("LunarLander-v3") as lean:
            assert difference(lean.single_observation_space, pool.single_observation_space) is None
        with make("FrozenLake-v1", 2, backend="envpool") as pool:
            assert pool.reset().dtype == np.int64

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="batch_size is 2, expected num_envs = 4"):
            make("CartPole-v1", 4, backend="envpool", env_kwargs={"batch_size": 2})

    @pytest.mark.filterwarnings("ignore:.*precision lowered")
    def test_users_own_pool(self) -> None:
        import envpool

        with make(envpool.make_gymnasium("CartPole-v1", num_envs=2, seed=3)) as stepper:
            assert stepper.reset(seed=1).shape == (2, 4)  # cannot be seeded any more, and is not asked


def test_difference() -> None:
    box = spaces.Box(-1, 1, (2,))
    a = spaces.Dict({"x": box, "y": spaces.Tuple((spaces.Discrete(3), box))})
    b = spaces.Dict({"x": box, "y": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, np.array([1, 2], np.float32))))})
    assert difference(a, a) is None
    assert difference(a, b) == "['y'][1] has high[1] = 2.0, expected 1.0"
    assert difference(box, spaces.Box(-1, 1, (3,))) == "the space has shape (3,), expected (2,)"
    assert difference(box, spaces.Discrete(3)) == "the space is Discrete(3), expected Box(-1.0, 1.0, (2,), float32)"
    assert difference(spaces.Discrete(3), spaces.Discrete(3, start=1)) == "the space is Discrete(3, start=1), expected Discrete(3)"
    assert difference(a, spaces.Dict({"x": box})) == "the space has the keys ['x'], expected ['x', 'y']"
