"""Environments that somebody else compiled: C in a shared library, and functions of Numba."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary
from gymnasium.utils.env_checker import check_env
from numba import carray, cfunc, types

import pyrl
from pyrl.__main__ import main
from pyrl.envs import NativeVectorEnv, make, native_env, native_library
from pyrl.errors import EnvError, SettingError, UnknownNameError

HERE = Path(__file__).parent
LANDER = HERE.parent.parent / "examples" / "native_env.c"


def build(source: Path, folder: Path) -> str:
    library = folder / f"lib{source.stem}.so"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "clang"
    flags = ["-O1", "-shared", "-fPIC", "-Wno-override-init", "-Wno-initializer-overrides"]
    subprocess.run([compiler, *flags, "-I", pyrl.envs.include_dir(), str(source), "-o", str(library)], check=True, timeout=120)
    return str(library)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(HERE / "faulty_envs.c", tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def lander(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(LANDER, tmp_path_factory.mktemp("lander")) + ":Lander"


def test_the_header_is_installed_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert (Path(pyrl.envs.include_dir()) / "pyrl_env.h").is_file()
    assert main(["include"]) == 0
    assert capsys.readouterr().out.strip() == pyrl.envs.include_dir()


def test_the_header_is_c_and_cpp(tmp_path: Path) -> None:
    for suffix, compiler, standard in (("c", "cc", "c99"), ("cpp", "c++", "c++11")):
        source = tmp_path / f"alone.{suffix}"
        source.write_text("#include <pyrl_env.h>\nint size(void) { return (int)sizeof(pyrl_env); }\n")
        strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-std={standard}", "-c", "-o", str(tmp_path / "alone.o")]
        subprocess.run([compiler, *strict, "-I", pyrl.envs.include_dir(), str(source)], check=True, timeout=120)


def test_what_a_library_says_becomes_spaces_limit_and_parameters(lander: str) -> None:
    with make(lander, 3, seed=1) as stepper:
        assert type(stepper).__name__ == "NativeStepper"
        assert stepper.name == "Lander-v0"
        assert stepper.single_observation_space == Box(-np.inf, np.inf, (3,))
        assert stepper.single_action_space == Discrete(2)
        first = stepper.reset().copy()
        fall = [stepper.step(np.zeros(3, np.int64)).next_observation[:, 1].copy() for _ in range(5)]
        assert (np.diff(fall, axis=0) < 0).all()
    with make(lander, 3, seed=1, env_kwargs={"gravity": 0.0}) as stepper:
        np.testing.assert_array_equal(stepper.reset(), first)
        np.testing.assert_array_equal(stepper.step(np.zeros(3, np.int64)).next_observation[:, 1], first[:, 1])
    with pytest.raises(TypeError, match=r"'gravitas'.*gravity"):
        make(lander, env_kwargs={"gravitas": 1.0})
    with pytest.raises(TypeError, match="gravity is 'low', expected a number"):
        make(lander, env_kwargs={"gravity": "low"})


def test_bounds_of_actions_reach_the_environment(faulty: str) -> None:
    with make(f"{faulty}:Fine", 3) as stepper:
        assert stepper.single_action_space == Box(-2.0, 0.5, (1,))
        stepper.reset()
        shown = stepper.step(np.array([[-9.0], [0.25], [9.0]], np.float32)).next_observation
        assert shown[:, 0].tolist() == [-2.0, 0.25, 0.5]


@pytest.mark.parametrize("backend", ["lean", "sync", "async", "processes"])
def test_other_backends_make_the_same_episodes(lander: str, backend: Any) -> None:
    with make(lander, 2, seed=4) as native, make(lander, 2, seed=4, backend=backend) as other:
        np.testing.assert_array_equal(native.reset(), other.reset())
        for step in range(150):
            action = np.array([step % 2, step % 3 == 0], np.int64)
            one, two = native.step(action), other.step(action)
            for name in ("next_observation", "reward", "terminated", "truncated"):
                np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=f"{name} at {step}")
            np.testing.assert_array_equal(native.observation, other.observation)
            assert repr(one.episodes) == repr(two.episodes)


def test_a_librarys_environment_can_be_sent_to_another_process(lander: str) -> None:
    with make(lander, env_kwargs={"gravity": 2.5}) as stepper:
        native = stepper.native  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(native))
    np.testing.assert_array_equal(again.parameters, native.parameters)
    assert (again.name, again.max_episode_steps) == (native.name, native.max_episode_steps)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(walk())


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_gymnasiums_checker(lander: str) -> None:
    with make(lander) as stepper:
        check_env(stepper.native(), skip_render_check=True)  # type: ignore[attr-defined]
    envs = NativeVectorEnv(lander, 4, gravity=2.0)
    assert envs.reset(seed=0)[0].shape == (4, 3)


SAID = {
    "Segfault": "died of SIGSEGV",
    "Abort": "died of SIGABRT",
    "Exit": "ended its process",
    "Hang": "did not return within",
    "TooMuch": "beyond the observation, whose space has 8 bytes",
    "SmallState": "beyond the state, whose state_size is 4",
    "Code": "reset returned 42, expected 0",
    "OldVersion": "version 0 of pyrl_env.h, expected 1",
    "OldStruct": "struct_size is",
    "NoSpace": "kind of the space action is 0",
    "Nothing": "returned NULL",
    "Missing": r"exports no pyrl_env_Missing",
}


@pytest.mark.parametrize("name", SAID)
def test_faults_end_in_a_message(faulty: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "PROBE_TIMEOUT", 0.5 if name == "Hang" else 60.0)
    with pytest.raises(EnvError, match=SAID[name]) as raised:
        make(f"{faulty}:{name}", 2)
    assert f":{name}: " in str(raised.value)


@pytest.mark.parametrize(("name", "said"), [("NotANumber", "not finite: number 0 is -?nan"), ("InfiniteReward", "reward inf")])
def test_what_is_not_finite_names_environment_seed_and_step(faulty: str, name: str, said: str) -> None:
    with make(f"{faulty}:{name}", 3, seed=2) as stepper:
        stepper.reset()
        seed = stepper.env_seeds[0]
        for _ in range(299):
            stepper.step(np.zeros((3, 1), np.float32))
        with pytest.raises(EnvError, match=rf"{name}-v0: environment 0 \(seed {seed}, step 299\): step returned .*{said}"):
            stepper.step(np.zeros((3, 1), np.float32))
        with pytest.raises(EnvError, match="before reset"):
            stepper.step(np.zeros((3, 1), np.float32))
        stepper.reset()
        stepper.step(np.zeros((3, 1), np.float32))


def test_open_and_close_come_in_pairs(faulty: str) -> None:
    blocks = ctypes.CDLL(faulty).blocks
    blocks.restype = ctypes.c_int64
    before = blocks()
    with make(f"{faulty}:Owner", 4) as stepper:
        assert blocks() == before + 4
        stepper.reset()
        stepper.step(np.zeros((4, 1), np.float32))
        with pytest.raises(EnvError, match="plain bytes"):
            stepper.state_dict()  # type: ignore[attr-defined]
    assert blocks() == before
    with pytest.raises(EnvError, match="environment 5: open returned 7"):
        make(f"{faulty}:Owner", 8)
    assert blocks() == before


def test_paths_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="there is no file"):
        make(str(tmp_path / "libnone.so:Name"))
    (tmp_path / "libtext.so").write_text("no library")
    with pytest.raises(EnvError, match="cannot be loaded"):
        make(str(tmp_path / "libtext.so:Name"))
    with pytest.raises(UnknownNameError, match="not the name of an environment"):
        make(str(tmp_path / "libtext.so:a b"))
    with pytest.raises(UnknownNameError, match=r"libtext\.so is a library; name its environment too: .*libtext\.so:NAME"):
        make(str(tmp_path / "libtext.so"))
    with pytest.raises(UnknownNameError, match="is a source file; compile it"):
        make("./walk.c:Walk")


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_the_command_line_trains_and_evaluates(lander: str, algo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    steps = ["--total-steps", "2048", "--run-dir", folder]
    assert main(["train", algo, lander, *steps, "--env-kwargs.gravity", "1.2"]) == 0
    assert "native" in capsys.readouterr().out
    assert main(["eval", folder, "--episodes", "2"]) == 0


NUMBERS = types.CPointer(types.float64)
RESET = types.int32(types.voidptr, NUMBERS, NUMBERS, types.voidptr)
STEP = types.int32(types.voidptr, NUMBERS, NUMBERS, types.voidptr, types.voidptr, NUMBERS, types.CPointer(types.uint8))


@cfunc(RESET)
def walk_reset(state, parameters, uniform, observation):  # type: ignore[no-untyped-def]
    s, shown = carray(state, 1, np.float64), carray(observation, 1, np.float32)
    s[0] = uniform[0]
    shown[0] = s[0]
    return 0


@cfunc(STEP)
def walk_step(state, parameters, uniform, action, observation, reward, ended):  # type: ignore[no-untyped-def]
    s, shown, chosen = carray(state, 1, np.float64), carray(observation, 1, np.float32), carray(action, 1, np.int64)
    s[0] += parameters[0] * (chosen[0] - 1)
    shown[0] = s[0]
    reward[0] = s[0]
    ended[0] = np.uint8(s[0] > 2)
    return 0


def walk(**changes: Any) -> Any:
    arguments = dict(reset=walk_reset, step=walk_step, state_size=8, reset_uniforms=1, max_episode_steps=20, parameters={"stride": 0.5})
    return native_env("Walk", Box(-np.inf, np.inf, (1,)), Discrete(3), **{**arguments, **changes})


def test_numba_functions_step_in_the_native_loop() -> None:
    env = walk()
    with make(env, 2, seed=0) as stepper:
        assert type(stepper).__name__ == "NativeStepper"
        start = stepper.reset().copy()
        result = stepper.step(np.array([2, 0]))
        np.testing.assert_allclose(result.next_observation, start + np.array([[0.5], [-0.5]]), rtol=1e-6)
        np.testing.assert_array_equal(result.reward.astype(np.float32), result.next_observation[:, 0])
    with make(env, 2, seed=0, env_kwargs={"stride": 3.0}) as stepper:
        stepper.reset()
        assert stepper.step(np.array([2, 0])).terminated.tolist() == [True, False]
    single = env(stride=1.0)
    assert isinstance(single, gymnasium.Env)
    run = pyrl.train("ppo", env, total_steps=512, n_steps=64, batch_size=64, num_envs=2, run_dir=False)
    assert run.agent.env_steps == 512


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"state_size": 4}, EnvError, "beyond the state"),
        ({"reset": walk}, SettingError, "reset is function"),
        ({"reset": 0}, SettingError, "NULL"),
        ({"step_uniforms": 1 << 20}, SettingError, "step_uniforms"),
    ],
)
def test_wrong_functions_are_refused(changes: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        walk(**changes)


def test_spaces_that_native_environments_cannot_have() -> None:
    with pytest.raises(SettingError, match="action_space is MultiBinary"):
        native_env("Walk", Box(0, 1, (1,)), MultiBinary(3), reset=walk_reset, step=walk_step, state_size=8)
