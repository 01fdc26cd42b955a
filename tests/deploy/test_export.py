"""Exported policies against their agents: every agent, every kind of observation and action, in all three forms."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import pyrl
from pyrl.__main__ import main
from pyrl.deploy import numpy_source
from pyrl.errors import NetworkError, SettingTypeError, UnknownNameError
from pyrl.spaces import leaves, pick
from pyrl.types import map_observation

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
OBSERVATIONS = {
    "vector": VECTOR,
    "double": spaces.Box(-1, 1, (2, 3), np.float64),
    "number": spaces.Box(-1, 1, (), np.float32),
    "bytes": spaces.Box(0, 255, (5,), np.uint8),
    "discrete": spaces.Discrete(5, start=-2),
    "multi_discrete": spaces.MultiDiscrete([3, 4], start=[1, -1]),
    "multi_binary": spaces.MultiBinary([2, 2]),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "stack": spaces.Box(0, 255, (4, 36, 36), np.uint8),
    "small_image": spaces.Box(0, 255, (1, 9, 8), np.uint8),
    "dict": spaces.Dict({"position": VECTOR, "cell": spaces.Discrete(3), "deep": spaces.Tuple([VECTOR, spaces.MultiBinary(2)])}),
    "keys": spaces.Dict({"it's": VECTOR, 'say "yes"': spaces.Discrete(2)}),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=5),
    "small": spaces.Discrete(3, dtype=np.int8),
    "multi_discrete": spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "multi_binary": spaces.MultiBinary([2, 2]),
    "box": spaces.Box(-2, 3, (2, 2), np.float32),
    "number": spaces.Box(-2, 3, (), np.float64),
    "whole": spaces.Box(-3, 4, (2,), np.int16),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "half": spaces.Box(np.array([-1, -np.inf], np.float32), np.array([np.inf, 1], np.float32)),
}
# torch's own warnings of its own future
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")

CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    *(("ppo", observation, "discrete", {}) for observation in OBSERVATIONS),
    *(("a2c", "vector", action, {"normalize_observation": True, "clip_observation": 0.7}) for action in ACTIONS),
    *(("dqn", observation, "discrete", {"dueling": True, "activation": "gelu"}) for observation in ("vector", "dict", "image")),
    *((agent, "dict", "box", {"normalize_observation": True}) for agent in ("ddpg", "td3", "svg")),
    ("sac", "dict", "number", {"normalize_observation": True}),
    *((agent, "dict", "box", {"normalize_observation": True}) for agent in ("tqc", "crossq")),
    ("sac", "vector", "box", {"activation": "silu", "clip_observation": 0.5}),
    ("ppo", "small_image", "discrete", {"features_extractor": "impala"}),
    ("a3c", "double", "small", {}),
]


def made(agent: str, observation: str, action: str, settings: dict[str, Any]) -> pyrl.Agent:
    """An agent whose normaliser has seen something and whose last layer is large enough for clear choices."""
    made = pyrl.make_agent(agent, OBSERVATIONS[observation], ACTIONS[action], seed=1, net_arch=(16, 16), **settings)
    if made.normalizer.active:
        made.normalizer.update(seen(OBSERVATIONS[observation], 50, seed=3))
    with torch.no_grad():
        for network in made.modules().values():
            for parameter in network.parameters():
                parameter.mul_(3.0)
    return made


def seen(space: Any, count: int, seed: int) -> Any:
    space.seed(seed)
    return map_observation(lambda *rows: np.stack(rows), *(space.sample() for _ in range(count)))


@pytest.mark.parametrize(("agent", "observation", "action", "settings"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_numpy_acts_as_the_agent(tmp_path: Path, agent: str, observation: str, action: str, settings: dict[str, Any]) -> None:
    """Batches of one and more, and single observations; other ones than the check at export sees."""
    original, space = made(agent, observation, action, settings), OBSERVATIONS[observation]
    names: dict[str, Any] = {}
    exec(pyrl.export(original, tmp_path / "policy.py").read_text(), names)
    for count in (1, 7):
        observations = seen(space, count, seed=5)
        found, expected = names["act"](observations), np.asarray(original.act(observations))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    one = map_observation(lambda x: x[0], observations)
    assert np.allclose(names["act"](one), original.act(one), rtol=1e-4, atol=1e-4)
    assert all(original.action_space.contains(np.asarray(row)) for row in found)


OTHERS = [(".pt", case) for case in CASES[1::6]] + [(".onnx", case) for case in CASES[::7]]


@pytest.mark.parametrize(("suffix", "case"), OTHERS, ids=lambda x: x if isinstance(x, str) else "-".join(x[:3]))
def test_other_forms_act_as_the_agent(tmp_path: Path, suffix: str, case: tuple[str, str, str, dict[str, Any]]) -> None:
    original, space = made(*case), OBSERVATIONS[case[1]]
    path = pyrl.export(original, tmp_path / f"policy{suffix}")
    observations = seen(space, 7, seed=5)
    arrays = {".".join(map(str, ("observation", *leaf))): np.asarray(pick(observations, leaf)) for leaf, _ in leaves(space)}
    if suffix == ".pt":
        found = torch.jit.load(path)(*(torch.as_tensor(array) for array in arrays.values())).numpy()
    else:
        import onnxruntime

        found = onnxruntime.InferenceSession(path).run(["action"], arrays)[0]
    assert np.allclose(found, original.act(observations), rtol=1e-4, atol=1e-4)


def test_the_numpy_form_needs_numpy_only(tmp_path: Path) -> None:
    agent = made("ppo", "image", "discrete", {})
    pyrl.export(agent, tmp_path / "policy.py")
    observations = seen(OBSERVATIONS["image"], 3, seed=5)
    np.save(tmp_path / "observations.npy", observations)
    code = """
import sys
for name in ("torch", "pyrl", "gymnasium", "scipy"):
    sys.modules[name] = None  # any import of it fails
import numpy as np
from policy import act
print(act(np.load("observations.npy")).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == str(agent.act(observations).tolist())


def test_the_numpy_form_names_what_is_wrong_with_an_observation(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(pyrl.export(made("dqn", "dict", "discrete", {}), tmp_path / "policy.py").read_text(), names)
    observation = seen(OBSERVATIONS["dict"], 2, seed=0)
    with pytest.raises(ValueError, match=r"observation\['position'\] has shape \[2, 3\], expected \[4\] or"):
        names["act"]({**observation, "position": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="some arrays of the observation are single"):
        names["act"]({**observation, "cell": 1})
    with pytest.raises(KeyError, match="cell"):
        names["act"]({"position": observation["position"]})


@pytest.mark.parametrize("layer", [nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.LeakyReLU, nn.Sigmoid, nn.Hardtanh, nn.Tanh])
def test_layers_in_numpy(layer: type[nn.Module]) -> None:
    """And what networks of users' own are made of beside them."""
    first = nn.Linear(4, 8), nn.LayerNorm(8), layer(), nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 2, padding=1, groups=2)
    network = nn.Sequential(*first, nn.BatchNorm2d(4), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Softmax(1), nn.LogSoftmax(1)).eval()
    batch = torch.export.Dim("batch")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    function, data = numpy_source.numpy_function(torch.export.export(network, (x,), dynamic_shapes=({0: batch},)), "f")
    names: dict[str, Any] = {"np": np}
    exec(function, names)
    names["_constants"] = np.load(io.BytesIO(base64.b64decode(data)))
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert np.allclose(names["f"](x.numpy()), network(x).numpy(), rtol=1e-5, atol=1e-6)


def test_an_unknown_operator_is_refused_by_name(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, 1)

    program = torch.export.export(Odd(), (torch.zeros(2, 3),))
    with pytest.raises(NetworkError, match=r"does not know the operator aten.cumsum"):
        numpy_source.numpy_function(program, "f")


@pytest.mark.parametrize("wrong", ["np.tanh({self} * 2)", "np.tanh({self}).astype('float64')"])
def test_a_file_that_acts_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """And what lay there before stays."""
    monkeypatch.setitem(numpy_source._EXPRESSIONS, "tanh", wrong)
    (tmp_path / "policy.py").write_text("before")
    with pytest.raises(RuntimeError, match=r"export: .*actions"):
        pyrl.export(made("a2c", "vector", "box", {}), tmp_path / "policy.py")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("policy.py", "before")]


def test_mistakes_are_named(tmp_path: Path) -> None:
    agent = made("ppo", "vector", "discrete", {})
    with pytest.raises(UnknownNameError, match=r"whose suffix names no form: expected .onnx, .pt, .py, or to="):
        pyrl.export(agent, tmp_path / "policy.bin")
    with pytest.raises(ValueError, match=r"export: to is 'tflite'"):
        pyrl.export(agent, tmp_path / "policy.py", to="tflite")  # type: ignore[arg-type]
    with pytest.raises(SettingTypeError, match=r"export: agent is .*expected an agent"):
        pyrl.export("agent", tmp_path / "policy.py")  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match=r"random has no deterministic_action"):
        pyrl.export(pyrl.make_agent("random", VECTOR, ACTIONS["discrete"], seed=0), tmp_path / "policy.py")
    assert list(tmp_path.iterdir()) == []


def test_the_agent_is_left_as_it_was(tmp_path: Path) -> None:
    """Random stream, weights and precision: what it draws next is what it would have drawn."""
    space = OBSERVATIONS["stack"]
    agents = [pyrl.make_agent("ppo", space, ACTIONS["discrete"], seed=1, precision="bfloat16") for _ in range(2)]
    pyrl.export(agents[0], tmp_path / "policy.py")
    observations = seen(space, 20, seed=0)
    drawn = [agent.act(observations, deterministic=False).tolist() for agent in agents]
    assert drawn[0] == drawn[1]
    assert {m.precision for m in agents[0].modules()["network"].modules() if hasattr(m, "precision")} == {"bfloat16"}


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", "a2c", "CartPole-v1", "--total-steps", "200", "--quiet", "--run-dir", str(run)]) == 0
    assert main(["export", str(run), "--to", "numpy"]) == 0
    assert (run / "policy.py").exists()
    assert main(["export", str(run), "--out", str(tmp_path / "mine.pt")]) == 0
    assert (tmp_path / "mine.pt").exists()
    capsys.readouterr()
    assert main(["export", str(run), "--out", str(tmp_path / "mine.txt")]) == 2
    assert "names no form" in capsys.readouterr().err
