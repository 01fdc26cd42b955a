"""The command line: what flags become, what a user's mistakes are answered with, and what Ctrl-C leaves behind.

Training is replaced by a stand-in that records how it was called; tests/cli/test_commands.py trains for real.
"""

from __future__ import annotations

import dataclasses
import io
import re
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from pyrl.__main__ import main
from pyrl.cli.flags import split_env_kwargs
from pyrl.cli.play import why_no_display
from pyrl.cli.progress import Bar
from pyrl.cli.report import print_report
from pyrl.experiment import signals
from pyrl.experiment.metrics import MetricsLog
from pyrl.experiment.presets import Preset
from pyrl.experiment.runs import RunFolder
from pyrl.types import Episode, Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeConfig:
    """Settings of an algorithm."""

    gamma: float = 0.99  # discount factor, in [0, 1]
    learning_rate: float | str = 3e-4  # of Adam
    gae_lambda: float = 0.95  # of the advantage
    net_arch: tuple[int, ...] = (64, 64)  # hidden layers
    loss: Literal["huber", "mse"] = "mse"  # of the value
    max_grad_norm: float | None = 0.5  # None: off
    dueling: bool = False  # a head of two parts

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"FakeConfig: gamma is {self.gamma}, expected a value in [0, 1]")


class Training:
    """Stands in for `pyrl.experiment.train`: remembers its arguments, makes ten records, or stops when it is told to, and leaves
    what a run leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[dict[str, Any]] = []
        self.at_record: Any = lambda i: None

    def train(self, algo: str, env: str, *, on_metrics: Any, **keywords: Any) -> Any:
        keywords.pop("curve", None)
        self.calls.append({"algo": algo, "env": env, **keywords})
        records = []
        for i in range(1, 11):
            self.at_record(i)
            values = {"time/env_steps": 10 * i, "time/env_steps_per_second": 1234.5, "time/episodes": i}
            if i > 2:
                values |= {"episode/return_mean": 7.0 * i, "episode/success_rate": i / 10}
            records.append(Metrics({**values, "time/updates": i}, [Episode(7.0 * i, 2 * i, 0, i > 4)]))
            if on_metrics(records[-1]):
                break
        self.folder.mkdir(parents=True, exist_ok=True)
        RunFolder(self.folder, {"algo": algo, "env": env, "seed": 0, "ending": "total_steps: 100 reached"}).write_config()
        with MetricsLog(self.folder) as log:
            for record in records:
                log.write(record)
        agent = types.SimpleNamespace(env_steps=int(records[-1]["time/env_steps"]))
        return types.SimpleNamespace(agent=agent, metrics=records, dir=self.folder, new_steps=agent.env_steps, seconds=1.25)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    fake = Training(tmp_path / "runs" / "ppo_CartPole-v1")
    train: Any = types.ModuleType("pyrl.experiment.train")
    train.train = fake.train
    monkeypatch.setattr("pyrl.agents.registry.agent_class", lambda name: types.SimpleNamespace(Config=FakeConfig))
    presets = {("ppo", "CartPole-v1"): Preset(total_steps=1234, num_envs=4, config={"gae_lambda": 0.8, "net_arch": (32,)})}
    monkeypatch.setattr("pyrl.experiment.presets._PRESETS", presets)
    monkeypatch.setattr("pyrl.experiment.presets._DEFAULTS", {"ppo": Preset(num_envs=3)})
    monkeypatch.setitem(sys.modules, "pyrl.experiment.train", train)
    monkeypatch.chdir(tmp_path)
    return fake


# -- train -------------------------------------------------------------------------------------------------------------


def test_preset_is_the_default(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ppo", "CartPole-v1"]) == 0
    (call,) = training.calls
    assert (call["algo"], call["env"], call["seed"]) == ("ppo", "CartPole-v1", 0)
    assert (call["total_steps"], call["num_envs"], call["gae_lambda"], call["net_arch"]) == (1234, 4, 0.8, (32,))
    assert call["max_grad_norm"] == 0.5  # the algorithm's own default
    assert "quiet" not in call
    output = " ".join(capsys.readouterr().out.split())
    for part in (
        "steps 100 in 1.2 s, 10 updates",
        "episodes 10, mean length 11.0",
        "return 38.5 +- 20.1 over all episodes, best 70.0",
        "38.5, mean of the last 10 episodes; highest such mean 38.5",
        "success 60.0% of the last 10 episodes",
        "ended by total_steps: 100 reached",
    ):
        assert part in output
    assert "pyrl play runs/ppo_CartPole-v1" in output
    assert "needs:" not in output


def test_what_drawing_needs_is_told(training: Training, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the command to watch is named, and before anything slow is imported for it."""
    monkeypatch.setattr("pyrl.cli.play.find_spec", lambda name: None)
    assert main(["train", "ppo", "CartPole-v1"]) == 0
    assert "watch it with (needs: pip install 'pyrl[video]') pyrl play" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("pyrl.cli.play.trained_run", lambda path: (RunFolder.open(path), path))
    assert main(["play", str(training.folder)]) == 2
    wanted = "pyrl: play: drawing CartPole-v1 needs a package that is not installed: pip install 'pyrl[video]'\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize(
    ("flags", "limits"),
    [
        ("", (1234, None)),
        ("--total-episodes 4000", (None, 4000)),
        ("--total_steps=9", (9, None)),
        ("--total-steps 9 --total-episodes 8", (9, 8)),
        ("--total-steps 1e5 --total-episodes 2_000", (100_000, 2000)),
    ],
)
def test_a_limit_takes_the_place_of_the_presets(training: Training, flags: str, limits: tuple[int | None, int | None]) -> None:
    assert main(["train", "ppo", "CartPole-v1", *flags.split()]) == 0
    (call,) = training.calls
    assert (call["total_steps"], call["total_episodes"]) == limits


def test_flags_win_over_the_preset(training: Training) -> None:
    flags = """--total-steps 77 --seed 3 --num-envs 2 --env-backend sync --eval-every 10 --eval-episodes 5
        --run-dir here --stop-at-return 475 --stop-window 20 --learning-rate linear_1e-3 --net-arch 32 16 --loss huber
        --max-grad-norm None --dueling --env-kwargs.is_slippery False --env-kwargs.map-name=8x8 --gamma 0.5
        --max-episode-steps 9"""
    assert main(["train", "ppo", "FrozenLake-v1", *flags.split()]) == 0
    (call,) = training.calls
    expected = {
        "total_steps": 77, "total_episodes": None, "seed": 3, "num_envs": 2, "backend": "sync", "eval_every": 10,
        "eval_episodes": 5, "run_dir": Path("here"), "stop_at_return": 475.0, "stop_window": 20,
        "learning_rate": "linear_1e-3",
        "net_arch": (32, 16), "loss": "huber", "max_grad_norm": None, "dueling": True, "gamma": 0.5,
        "env_kwargs": {"is_slippery": False, "map_name": "8x8"}, "max_episode_steps": 9,
    }  # fmt: skip
    assert {k: call[k] for k in expected} == expected


def test_help_shows_the_preset(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ppo", "CartPole-v1", "--help"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "Defaults: preset for CartPole-v1: num_envs 4, gae_lambda 0.8, net_arch (32,);" in output
    assert "--gae-lambda FLOAT of the advantage (default: 0.8)" in output.replace("│ │ ", "")
    assert training.calls == []
    main(["train", "ppo", "Acrobot-v1", "--help"])
    wanted = "Defaults: no preset for Acrobot-v1, pyrl's general settings for ppo: num_envs 3;"
    assert wanted in " ".join(capsys.readouterr().out.split())


def test_help_of_an_algorithm_needs_no_environment(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ("--help", "--seed 3 -h"):
        assert main(["train", "ppo", *flags.split()]) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert "pyrl train ppo ENV" in output
        assert "--gae-lambda FLOAT" in output
        assert "general settings for ppo: num_envs 3;" in output
    assert main(["train", "poo", "--help"]) == 2
    assert "unknown algorithm 'poo'" in capsys.readouterr().err


def test_the_first_line_says_where_the_settings_come_from(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "ppo", "CartPole-v1"])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "ppo on CartPole-v1; preset for CartPole-v1: num_envs 4, gae_lambda 0.8, net_arch (32,)"
    main(["train", "ppo", "Acrobot-v1"])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "ppo on Acrobot-v1; no preset for Acrobot-v1, pyrl's general settings for ppo: num_envs 3"


TRUTH = [(flag, word, form) for flag in ("dueling", "quiet") for word in ("true", "False", "yes", "no", "1", "off") for form in (" ", "=")]


@pytest.mark.parametrize(("flag", "word", "form"), TRUTH)
def test_booleans_take_words(training: Training, flag: str, word: str, form: str) -> None:
    assert main(f"train ppo CartPole-v1 --seed 3 --{flag}{form}{word} --total-steps 10".split()) == 0
    (call,) = training.calls
    assert (call["seed"], call["total_steps"]) == (3, 10)
    assert call["dueling"] == (flag == "dueling" and word in ("true", "yes", "1"))


RESUMED = "cannot go with --resume: a resumed run keeps its settings"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "usage: pyrl COMMAND"),
        ("trian ppo", "unknown command 'trian'; did you mean train?"),
        ("train", "train needs ALGO and ENV first"),
        ("train ppo --seed 1", "train needs ALGO and ENV first"),
        ("train poo CartPole-v1", "unknown algorithm 'poo'; did you mean ppo, appo?"),
        ("train CartPole-v1 ppo", "unknown algorithm 'CartPole-v1'; did you mean ppo CartPole-v1, the algorithm first?"),
        ("train ppo CartPole-v7", "CartPole-v1"),
        ("train ppo CartPol-v1", "CartPole-v1"),
        ("train ppo CartPole-v1 --gama 0.9", "there is no flag --gama; did you mean --gamma?"),
        ("train ppo CartPole-v1 --lr 0.9", "there is no flag --lr; did you mean --learning-rate?"),
        ("train ppo CartPole-v1 --total-timesteps=9", "there is no flag --total-timesteps; did you mean --total-steps?"),
        ("train ppo CartPole-v1 --verbose 1", "there is no flag --verbose; pyrl has on_metrics: pyrl.train prints nothing"),
        ("train ppo CartPole-v1 --dueling maybe", "--dueling is 'maybe', expected true or false, or the flag alone, or --no-dueling"),
        ("train ppo CartPole-v1 --total-steps 0", "train: total_steps is 0, expected an integer of at least 1"),
        ("train ppo CartPole-v1 --num-envs 1e9", "train: num_envs is 1000000000, expected an integer in [1, 65536]"),
        ("train ppo CartPole-v1 --gamma 1.5", "gamma is 1.5, expected a value in [0, 1]"),
        ("train ppo CartPole-v1 --gamma much", "much"),
        ("train ppo CartPole-v1 --loss l2", "huber"),
        ("train ppo CartPole-v1 --total-steps many", "'many' is not a whole number, like 100000 or 1e5"),
        ("train ppo CartPole-v1 --total-steps 1.5", "'1.5' is not a whole number"),
        ("train ppo CartPole-v1 --seed inf", "'inf' is not a whole number"),
        ("train ppo CartPole-v1 --env-kwargs.a", "--env-kwargs.NAME VALUE"),
        ("train ppo CartPole-v1 --env-kwargs.a --seed 1", "--env-kwargs.NAME VALUE"),
        ("train ppo FrozenLake-v1 --env-kwargs.slippery 1", "unexpected keyword argument 'slippery'"),
        ("train --resume nowhere", "there is no run in nowhere"),
        ("train --resume nowhere --gamma 0.9", f"train: --gamma 0.9 {RESUMED}, but for --total-steps, --total-episodes, --stop-at"),
        ("train --resume=nowhere --net-arch 64 64", f"train: --net-arch 64 64 {RESUMED}"),
        ("train ppo CartPole-v1 --resume nowhere", f"train: ppo CartPole-v1 {RESUMED}"),
        ("train --resume nowhere --total-steps many", "'many' is not a whole number"),
        ("eval", "RUN"),
        ("eval nowhere", "there is no run in nowhere"),
        ("play nowhere", "there is no run in nowhere"),
        ("play nowhere --video x.gif", "play: --video is x.gif, expected a file that ends in .mp4, .mkv, .mov"),
        ("play nowhere --video x", "play: --video is x, expected a file that ends in"),
        ("plot nowhere", "there is no run in nowhere"),
        ("plot", "expected at least one run"),
        ("plot nowhere --window 0", "plot: window is 0, expected an integer of at least 1"),
        ("plot nowhere --x hours", "hours"),
    ],
)
def test_mistakes_are_told_in_a_line(training: Training, capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    code = main(command.split())
    output = capsys.readouterr()
    assert code == (2 if command else 0)
    assert message in output.out + output.err
    assert "Traceback" not in output.err
    assert training.calls == []


SLOW = {"torch", "gymnasium", "matplotlib", "safetensors", "tyro", "rich", "numpy"}  # to import, the slowest first


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("--help", ""),
        ("--version", ""),
        ("trian ppo", ""),
        ("train poo CartPole-v1", ""),
        ("train", ""),
        ("train ppo CartPole-v7", "gymnasium numpy"),
        ("list", "gymnasium numpy rich"),
        ("play x", "numpy rich tyro"),
    ],
)
def test_trivial_answers_need_little(code: str, loaded: str, tmp_path: Path) -> None:
    program = f"""
import sys
from pyrl.__main__ import main
main({code.split()!r})
print(*sorted({SLOW} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == loaded


@pytest.mark.parametrize("flags", ["", "--quiet false", "--quiet --no-quiet", "--quiet", "--seed 3 --quiet=yes", "--help"])
def test_the_first_line_comes_before_the_slow_imports(flags: str, tmp_path: Path) -> None:
    program = f"""
import sys
from pyrl.__main__ import main

class Told:
    def find_spec(self, name, path=None, target=None):
        if name in {SLOW}:
            raise SystemExit(7)

sys.meta_path.insert(0, Told())
main({["train", "ppo", "CartPole-v1", *flags.split()]!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    silent = flags in ("--quiet", "--seed 3 --quiet=yes", "--help")
    assert (done.returncode, done.stderr) == (0, "")  # a command's SystemExit is an answer
    assert done.stdout.startswith("ppo on CartPole-v1; preset for CartPole-v1: num_envs 8") != silent
    assert silent == (done.stdout == "")


def test_errors_from_within(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    from pyrl.errors import CheckpointError, EnvError
    from pyrl.experiment.plots import plot_runs

    def fail(error: BaseException) -> Any:
        def at_record(i: int) -> None:
            raise error

        return at_record

    for error, code in (
        (EnvError("CartPole-v1: environment 3 (seed 7): step raised"), 1),
        (CheckpointError("damaged"), 2),
        (OSError(28, "No space left on device"), 2),
        (KeyboardInterrupt(), 130),
    ):
        training.at_record = fail(error)
        assert main(["train", "ppo", "CartPole-v1"]) == code
        assert str(error) in capsys.readouterr().err
    training.at_record = fail(ValueError("a bug"))  # not raised by pyrl: the traceback is wanted
    with pytest.raises(ValueError, match="a bug"):
        main(["train", "ppo", "CartPole-v1"])
    training.at_record = lambda i: plot_runs([])  # raised by pyrl
    assert main(["train", "ppo", "CartPole-v1"]) == 2


@pytest.mark.parametrize(("module", "told"), [("pyrl.cli", ""), ("tyro", "ppo on CartPole-v1;"), ("torch", "ppo on CartPole-v1;")])
def test_interrupt_while_importing(module: str, told: str, tmp_path: Path) -> None:
    """Ctrl-C comes as an import begins, of what the command line needs or of what a command does. In another folder than the source
    tree, which would hide the installed package."""
    program = f"""
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["pyrl", "train", "ppo", "CartPole-v1"]
runpy.run_module("pyrl", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (130, "pyrl: interrupted\n")
    assert done.stdout.startswith(told)
    assert done.stdout.count("\n") == bool(told)


@pytest.mark.parametrize("env", ["LunarLander-v3", "ALE/Pong-v5", "Ant-v5"])
def test_a_missing_package_is_a_mistake_to_mend(env: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("Box2D", "gymnasium.envs.box2d", "gymnasium.envs.box2d.lunar_lander", "ale_py", "mujoco"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["train", "random", env, "--total-steps", "10", "--quiet"]) == 2
    assert re.fullmatch(rf"pyrl: {env} needs a package that is not installed: pip install 'pyrl\[\w+\]'\n", capsys.readouterr().err)


@pytest.mark.parametrize(("kind", "number"), [("Interrupted", 2), ("Stopped", 15), ("Stopped", 1)])
def test_a_signal_is_answered_with_how_to_go_on(training: Training, capsys: pytest.CaptureFixture[str], kind: str, number: int) -> None:
    stop = getattr(signals, kind)()
    stop.run, stop.folder = types.SimpleNamespace(agent=types.SimpleNamespace(env_steps=12345)), training.folder
    stop.signal = signal.Signals(number)

    def raise_it(i: int) -> None:
        raise stop

    training.at_record = raise_it
    assert main(["train", "ppo", "CartPole-v1"]) == 128 + number
    assert capsys.readouterr().out.endswith("stopped after 12,345 steps; resume with\n  pyrl train --resume runs/ppo_CartPole-v1\n")


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"SDL_VIDEODRIVER": "dummy"}, "SDL_VIDEODRIVER is 'dummy'"),
        ({"SDL_VIDEODRIVER": "offscreen", "DISPLAY": ":0"}, "SDL_VIDEODRIVER is 'offscreen'"),
        ({}, "neither DISPLAY nor WAYLAND_DISPLAY is set"),
        ({"SDL_VIDEODRIVER": "x11"}, "neither DISPLAY nor WAYLAND_DISPLAY is set"),
        ({"DISPLAY": ":0"}, None),
        ({"WAYLAND_DISPLAY": "wayland-0"}, None),
        ({"SDL_VIDEODRIVER": "kmsdrm"}, None),
    ],
)
def test_no_display(variables: dict[str, str], why: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", "linux")
    assert why_no_display() == why


def test_resume_goes_on_as_told(training: Training, tmp_path: Path) -> None:
    from pyrl.experiment.runs import RunFolder

    run = RunFolder.create("ppo", "CartPole-v1", 4, {"total_steps": 100, "total_episodes": None}, path=tmp_path / "r")
    assert main(["train", "--resume", str(run.path)]) == 0
    assert main(["train", "--resume", str(run.path), "--total-steps", "500", "--stop-at-return", "3", "--stop-window", "5", "--quiet"]) == 0
    told = "--learning-rate linear_1e-4 --eval-every 50 --eval-episodes 3 --save-every-episodes 7 --threads 2 --quiet"
    assert main(["train", "--resume", str(run.path), *told.split()]) == 0
    same = {"algo": "ppo", "env": "CartPole-v1", "resume": run.path}
    assert training.calls == [
        same,
        {**same, "total_steps": 500, "stop_at_return": 3.0, "stop_window": 5},
        {**same, "learning_rate": "linear_1e-4", "eval_every": 50, "eval_episodes": 3, "save_every_episodes": 7, "threads": 2},
    ]


def test_quiet_says_nothing(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ppo", "CartPole-v1", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("False", False), ("false", False), ("true", True), ("null", None), ("3", 3), ("0.5", 0.5), ("-1", -1),
        ("[1,2]", [1, 2]), ("{'a': 1}", {"a": 1}), ("8x8", "8x8"), ("'7'", "7"), ("exit()", "exit()"),
    ],
)  # fmt: skip
def test_env_kwargs_are_literals(text: str, value: Any) -> None:
    for arguments in ([f"--env-kwargs.k={text}"], ["--env-kwargs.k", text]):
        kwargs, rest = split_env_kwargs([*arguments, "--seed", "1"])
        assert kwargs == {"k": value}
        assert rest == ["--seed", "1"]


def record(step: int, **values: float) -> Metrics:
    return Metrics({"time/env_steps": step, "time/env_steps_per_second": 4321.0, **values}, [])


def test_bar_on_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Bar("ppo FrozenLake-v1", console, 1_000_000, None) as bar:
        bar.show(record(250_000, **{"episode/return_mean": 0.51, "episode/success_rate": 0.5}))
    for part in ("ppo FrozenLake-v1", "250k/1M steps", "4,321 steps/s", "return 0.51", "success 50%"):
        assert part in screen.getvalue()


def test_bar_in_a_file() -> None:
    screen = io.StringIO()
    with Bar("dqn LunarLander-v3", Console(file=screen, width=200), None, 50) as bar:
        for i in range(1, 51):
            bar.show(record(100 * i, **{"time/episodes": i, "episode/return_mean": -i}))
    lines = screen.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "dqn LunarLander-v3  5/50 episodes  4,321 steps/s  return -5.00"
    assert lines[-1] == "dqn LunarLander-v3  50/50 episodes  4,321 steps/s  return -50.0"


def test_bar_keeps_the_last_evaluation() -> None:
    screen = io.StringIO()
    with Bar("ddpg Pendulum-v1", Console(file=screen, width=200), 100, None) as bar:
        for step in (10, 20, 30):
            bar.show(record(step, **({"evaluation/return_mean": -985.26} if step == 20 else {})))
    assert ["evaluation -985.3" in line for line in screen.getvalue().splitlines()] == [False, True, True]


@pytest.mark.parametrize(
    ("new_steps", "line"),
    [
        (500, "500 in 2.0 s, 9 updates"),
        (200, "500, 200 of them now, in 2.0 s, 9 updates"),
        (0, "500, none of them now (a higher limit resumes it), 9 updates"),
    ],
)
def test_report_tells_what_was_done_now(tmp_path: Path, new_steps: int, line: str) -> None:
    run = RunFolder.create("ppo", "CartPole-v1", 0, {}, path=tmp_path / "run")
    with MetricsLog(run.path) as log:
        log.write(Metrics({"time/env_steps": 500, "time/updates": 9}, []))
    screen = io.StringIO()
    print_report(Console(file=screen, width=200), run, new_steps, 2.0)
    assert f"steps       {line}" in screen.getvalue()


@pytest.mark.parametrize("count", [1, 7, 100])
def test_report_holds_the_evaluation_table(tmp_path: Path, count: int) -> None:
    """Every evaluation up to forty of them, then the first, the last and forty in all."""
    run = RunFolder.create("ddpg", "Pendulum-v1", 0, {}, path=tmp_path / "run")
    scores = dict(return_mean=-100.0, return_std=5.0, return_min=-110.0, return_max=-9.0, length_mean=200.0)
    with MetricsLog(run.path) as log:
        for i in range(1, 2 * count + 1):
            evaluation = {f"evaluation/{name}": value - i for name, value in scores.items()} | {"evaluation/success_rate": 0.25}
            log.write(Metrics({"time/env_steps": 1000 * i, "time/updates": i, **(evaluation if i % 2 == 0 else {})}, []))
    screen = io.StringIO()
    print_report(Console(file=screen, width=200), run, 200_000, 1.0)
    lines = screen.getvalue().splitlines()
    rows = [line.split() for line in lines if "25.0%" in line]
    assert len(rows) == min(count, 40)
    assert rows[0] == ["2,000", "-102.0", "3.0", "-112.0", "-11.0", "198.0", "25.0%"]
    assert rows[-1][:2] == [f"{2000 * count:,}", f"{-100 - 2 * count:.1f}"]
    assert any("40 of 100; all are in metrics.csv" in line for line in lines) == (count == 100)


def test_list(training: Training, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from pyrl.experiment.metrics import MetricsLog
    from pyrl.experiment.runs import RunFolder
    from pyrl.types import Episode

    run = RunFolder.create("ppo", "CartPole-v1", 4, {})
    with MetricsLog(run.path) as log:
        log.write(Metrics({"time/env_steps": 10}, [Episode(123.0, 5, 0)]))
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    for part in ("ppo", "dqn", "random", "classic_control", "CartPole-v1", "_s4", "123.0"):
        assert part in output


def test_plot(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    from pyrl.experiment.runs import RunFolder

    runs = [RunFolder.create("ppo", "CartPole-v1", seed, {}) for seed in (0, 1)]
    assert main(["plot", str(runs[0].path)]) == 0
    assert capsys.readouterr().out.strip() == str(runs[0].curve_file.relative_to(Path.cwd()))
    assert main(["plot", *(str(r.path) for r in runs), "--out", "both.png", "--window", "7", "--x", "episodes"]) == 0
    assert capsys.readouterr().out.strip() == "both.png"
    assert runs[0].curve_file.exists()
    assert Path("both.png").exists()


def test_module_is_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "pyrl", "--version"], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.startswith("pyrl ")
