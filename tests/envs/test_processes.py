"""Environments shared out over processes: the steps of `lean` for the same seed and actions, whatever the number of processes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest
from toy_envs import Scripted, Walk

from pyrl.envs import make
from pyrl.envs.process_stepper import ProcessStepper
from pyrl.errors import EnvError

ROWS = (
    "observation",
    "action",
    "reward",
    "next_observation",
    "terminated",
    "truncated",
    "valid",
    "first",
    "action_mask",
    "next_action_mask",
)


def same(one: Any, other: Any, what: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), what
    if isinstance(one, dict | tuple):
        for key, value in one.items() if isinstance(one, dict) else enumerate(one):
            same(value, other[key], f"{what}/{key}")
        return
    np.testing.assert_array_equal(one, other, err_msg=what)


def actions_of(stepper: Any, steps: int) -> list[np.ndarray]:
    space = stepper.single_action_space
    space.seed(1)
    return [np.stack([np.asarray(space.sample()) for _ in range(stepper.num_envs)]) for _ in range(steps)]


@pytest.mark.parametrize("cores", [1, 2, 3, 9])
@pytest.mark.parametrize(
    ("env", "num_envs", "kwargs"),
    [
        ("CartPole-v1", 5, {}),
        ("Pendulum-v1", 3, {}),
        ("FrozenLake-v1", 4, {}),
        ("Taxi-v4", 3, {}),  # with masks
        (Scripted, 4, {"script": [(3, "terminated"), (2, "truncated"), (1, "both")], "observation": "dict"}),
        (Scripted, 3, {"script": [(2, "terminated")], "observation": "image", "action": "box"}),
    ],
)
def test_steps_are_those_of_lean(env: Any, num_envs: int, kwargs: Any, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrl.envs.process_stepper.cores", lambda: cores)
    about: Any = {"seed": 4, "env_kwargs": kwargs, "max_episode_steps": 50}
    with make(env, num_envs, backend="processes", **about) as ours, make(env, num_envs, backend="lean", **about) as lean:
        assert isinstance(ours, ProcessStepper)
        assert len(ours._processes) == min(cores, num_envs)
        for seed in (None, 8):
            same(ours.reset(seed), lean.reset(seed))
            ended = 0
            for action in actions_of(lean, 120):
                one, other = ours.step(action), lean.step(action)
                for name in ROWS:
                    same(getattr(one, name), getattr(other, name), name)
                same(ours.observation, lean.observation, "observation")
                same(one.next_action_mask, other.next_action_mask, "next_action_mask")
                same(ours.action_mask, lean.action_mask, "mask")
                assert one.episodes == other.episodes
                ended += len(one.episodes)
            assert ended


def test_state_goes_from_any_number_of_processes_to_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []
    for cores in (2, 3):
        monkeypatch.setattr("pyrl.envs.process_stepper.cores", lambda cores=cores: cores)
        with make(Walk, 4, backend="processes", seed=2) as stepper:
            if cores == 2:
                stepper.reset()
                for t in range(40):
                    stepper.step(np.full(4, t % 2))
                state = stepper.state_dict()
            else:
                stepper.load_state_dict(state)
            rows = [stepper.step(np.full(4, t % 3 // 2)) for t in range(60)]
            steps.append((stepper.observation.copy(), [row.episodes for row in rows], rows[-1].reward.copy()))
    same(steps[0][0], steps[1][0])
    assert steps[0][1] == steps[1][1]
    same(steps[0][2], steps[1][2])


def test_a_state_that_cannot_be_had_changes_nothing() -> None:
    with make("CartPole-v1", 3, backend="processes", seed=2) as stepper, make("CartPole-v1", 3, backend="lean", seed=2) as lean:
        stepper.reset(), lean.reset()
        with pytest.raises(EnvError, match="CartPole-v1: no state to save: CartPoleEnv has no state_dict"):
            stepper.state_dict()
        same(stepper.step(np.ones(3, np.int64)).next_observation, lean.step(np.ones(3, np.int64)).next_observation)


def step_again(stepper: Any) -> None:
    stepper._ask("step")
    stepper._answers("step")


def test_a_process_that_dies_blames_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrl.envs.process_stepper.cores", lambda: 2)
    stepper: Any = make("CartPole-v1", 5, backend="processes", seed=3)
    stepper.reset()
    os.kill(stepper._processes[1].pid, signal.SIGKILL)
    time.sleep(0.1)
    for _ in range(2):  # from then on every call says so
        with pytest.raises(EnvError, match=r"CartPole-v1: environments 2 to 4 \(seed 3, in one process\): step: its process was killed"):
            step_again(stepper)
    assert not any(process.is_alive() for process in stepper._processes)
    stepper.close()


def test_other_autoreset_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="the processes backend is SAME_STEP"):
        make("CartPole-v1", 2, backend="processes", autoreset="next_step")


class Interrupts(Exception):
    pass


def test_an_interrupted_step_is_followed_by_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    with make("CartPole-v1", 3, backend="processes", seed=5) as stepper, make("CartPole-v1", 3, backend="lean", seed=5) as lean:
        assert isinstance(stepper, ProcessStepper)
        stepper.reset()

        def interrupt(phase: str) -> Any:
            raise Interrupts

        with monkeypatch.context() as patch:
            patch.setattr(stepper, "_answers", interrupt)
            with pytest.raises(Interrupts):
                stepper.step(np.zeros(3, np.int64))
        with pytest.raises(EnvError, match="step before reset"):
            stepper.step(np.zeros(3, np.int64))
        same(stepper.reset(9), lean.reset(9))
        same(stepper.step(np.ones(3, np.int64)).next_observation, lean.step(np.ones(3, np.int64)).next_observation)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("backend", ["processes", "async"])
def test_a_fork_does_not_touch_the_environments_of_its_parent(backend: str) -> None:
    action = np.zeros(2, np.int64)
    with make("CartPole-v1", 2, backend="lean", seed=0) as plain, make("CartPole-v1", 2, backend=backend, seed=0) as stepper:
        plain.reset()
        stepper.reset()
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            words = []
            for call in (lambda: stepper.step(action), stepper.reset):
                try:
                    call()
                except EnvError as error:
                    words.append(str(error))
            stepper.close()
            os.write(writer, "\n".join(words).encode())
            os._exit(0)
        os.waitpid(child, 0)
        step_words, reset_words = os.read(reader, 10_000).decode().split("\n")
        assert "of which this is a fork; make new ones here" in step_words
        assert "of which this is a fork; make new ones here" in reset_words
        for _ in range(20):
            same(stepper.step(action).observation, plain.step(action).observation)
        os.close(reader)
        os.close(writer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_steps_native_environments_in_a_thread_of_its_own() -> None:
    action = np.zeros(2, np.int64)
    with make("CartPole-v1", 2, backend="native", seed=0) as stepper:
        stepper.reset()
        stepper.send(action)
        stepper.receive()
        if (child := os.fork()) == 0:
            signal.alarm(20)
            stepper.send(action)
            os._exit(int(stepper.receive().reward.sum()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
