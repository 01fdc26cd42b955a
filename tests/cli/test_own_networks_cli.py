"""Networks of one's own from the command line: trained, gone on with, evaluated and played, and what mistakes are answered with."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrl.__main__ import main

MODULE = """
import gymnasium as gym
import torch
from torch import nn

class Trunk(nn.Module):
    def __init__(self, observation_space, action_space, config):
        super().__init__()
        self.trunk, self.actor, self.critic = nn.Linear(4, 16), nn.Linear(16, int(action_space.n)), nn.Linear(16, 1)

    def forward(self, observation):
        hidden = torch.tanh(self.trunk(observation))
        return self.actor(hidden), self.critic(hidden).squeeze(1)

class Features(nn.Module):
    features_dim = 8

    def __init__(self, space):
        super().__init__()
        self.layer = nn.Linear(4, 8)

    def forward(self, observation):
        return torch.relu(self.layer(observation))

class Mine(torch.optim.SGD):
    pass

class Nested:
    make = Trunk

number = 3
def activation():
    return nn.LeakyReLU(0.2)
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the current folder, of which nothing is left afterwards."""
    name = f"networks_of_{re.sub(r'[^a-z0-9]', '_', tmp_path.name.lower())}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    for known in [known for known in sys.modules if known.startswith(name)]:
        del sys.modules[known]


SHORT = [
    "--n-steps",
    "32",
    "--num-envs",
    "2",
    "--batch-size",
    "32",
    "--n-epochs",
    "1",
    "--total-steps",
    "128",
    "--run-dir",
    "run",
    "--quiet",
]


@pytest.mark.parametrize(
    "flags",
    [
        ["--network", "{m}:Trunk"],
        ["--network", "{m}:Nested.make"],
        [
            "--features-extractor",
            "{m}:Features",
            "--activation",
            "{m}:activation",
            "--optimizer",
            "{m}:Mine",
            "--optimizer-kwargs",
            "momentum=0.5",
        ],
    ],
    ids=["network", "nested", "the others"],
)
def test_train_resume_eval_play(flags: list[str], module: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [flag.format(m=module) for flag in flags]
    objects = [flag for pair in zip(flags[::2], flags[1::2]) if pair[0] != "--optimizer-kwargs" for flag in pair]
    assert main(["train", "ppo", "CartPole-v1", *SHORT, *flags]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["config"][flags[0].removeprefix("--").replace("-", "_")] == flags[1].replace("Nested.make", "Trunk")
    for loaded in [known for known in sys.modules if known.startswith(module)]:
        del sys.modules[loaded]
    capsys.readouterr()
    for command in (["train", "--resume", "run", "--total-steps", "256", "--quiet"], ["eval", "run"], ["play", "run", "--video", "x.mp4"]):
        assert main(command) == 2
        assert f"add {flags[0]} {config['config'][flags[0].removeprefix('--').replace('-', '_')]}" in capsys.readouterr().err
    assert module not in sys.modules
    assert main(["train", "--resume", "run", "--total-steps", "256", "--quiet", *objects]) == 0
    assert json.loads(Path("run/config.json").read_text())["config"] == config["config"]
    assert main(["eval", "run", "--episodes", "2", *objects]) == 0
    assert main(["eval", "run/checkpoints/last", "--episodes", "2", *objects]) == 0
    assert main(["play", "run", "--episodes", "1", "--video", "x.mp4", *objects]) == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--activation", "torch.nn:Mish"], {"activation": "torch.nn:Mish"}),
        (["--net-arch", "8", "4"], {"net_arch": [8, 4]}),
        (["--net-arch", "actor=8", "critic=16,4"], {"net_arch": {"actor": [8], "critic": [16, 4]}}),
        (["--optimizer", "torch.optim:NAdam"], {"optimizer": "torch.optim:NAdam"}),
        (
            ["--optimizer", "sgd", "--optimizer-kwargs", "momentum=0.9", "nesterov=True"],
            {"optimizer_kwargs": {"momentum": 0.9, "nesterov": True}},
        ),
        (["--optimizer-kwargs", "betas=0.8,0.9"], {"optimizer_kwargs": {"betas": [0.8, 0.9]}}),
    ],
)
def test_what_needs_no_module(flags: list[str], told: dict) -> None:
    assert main(["train", "ppo", "CartPole-v1", *SHORT, *flags]) == 0
    config = json.loads(Path("run/config.json").read_text())["config"]
    assert {name: config[name] for name in told} == told
    assert main(["train", "--resume", "run", "--total-steps", "192", "--quiet"]) == 0
    assert main(["eval", "run", "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--network", "no_such_module:make"],
            "--network is 'no_such_module:make', but there is no module 'no_such_module' here or in sys.path",
        ),
        (["--network", "{m}:Trnk"], "has no 'Trnk'; did you mean Trunk"),
        (["--features-extractor", "{m}:number"], "--features-extractor is '{m}:number', a int, expected a function or class"),
        (["--activation", "{m}_broken:x"], "importing {m}_broken failed"),
        (["--network", "{m}:Features"], "is called as (observation_space, action_space, config)"),
        (["--optimizer", "{m}:Trunk"], "optimizer is"),
        (["--network", "Trunk"], "MODULE:NAME"),
        (["--features-extractor", "natur"], "none of auto, flatten, nature, impala or MODULE:NAME"),
        (["--net-arch", "pi=8", "vf=8"], "'pi' is 'actor' here"),
        (["--optimizer-kwargs", "0.9"], "NAME=VALUE"),
    ],
)
def test_mistakes(flags: list[str], words: str, module: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["train", "ppo", "CartPole-v1", *SHORT, *(flag.format(m=module) for flag in flags)])
    out = capsys.readouterr()
    assert code == 2
    assert words.format(m=module) in re.sub(r"[\s│]+", " ", out.err + out.out)


def test_a_flag_that_the_run_does_not_need_is_refused(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ppo", "CartPole-v1", *SHORT]) == 0
    assert main(["eval", "run", "--network", f"{module}:Trunk"]) == 2
    assert "network is" in capsys.readouterr().err
