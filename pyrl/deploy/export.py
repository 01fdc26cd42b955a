"""`export`: a policy as one file that runs where pyrl is not."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pyrl.agents.base import Agent
from pyrl.agents.checks import checks_arguments
from pyrl.deploy.numpy_source import numpy_function
from pyrl.deploy.policy import DeployedPolicy
from pyrl.engine.standard import in_standard_state
from pyrl.errors import DeviceError, NetworkError, UnknownNameError
from pyrl.spaces import Path as Keys
from pyrl.spaces import leaves, pick
from pyrl.types import Observation, map_observation

Format: TypeAlias = Literal["onnx", "torchscript", "numpy"]
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt": "torchscript", ".py": "numpy"}
CHECKED = 1000  # observations on which a file must act as the agent does
_PIECE = 50
_OPSET = 18


@checks_arguments
@in_standard_state
def export(agent: Agent, path: str | Path, *, to: Format | None = None) -> Path:
    """Write what ``agent.act`` does, normaliser and action scaling included, as one file; return its path.

    ``to``: the form; None: by the suffix of ``path``.

    - "onnx" (.onnx): inputs ``observation``, or one for each array of a Dict or Tuple (``observation.position``), [B, ...] each; output
      ``action`` [B, ...]. For ONNX Runtime and whatever else reads ONNX. Needs the extra ``pyrl[onnx]``.
    - "torchscript" (.pt): ``torch.jit.load(path)(*arrays)``, in Python and in C++.
    - "numpy" (.py): a Python module that needs NumPy only; ``act(observation)`` takes one observation or a batch, as ``agent.act``.

    Actions are deterministic and of the action space. Networks compute in float32, also where the agent's ``precision`` is another.
    The file is checked before it gets its name: it acts as the agent does on 1,000 random observations (one may differ, where two
    actions are equally good), else RuntimeError. DeviceError for an agent on a GPU, NetworkError for what a form cannot express.
    """
    path = Path(path)
    form = _form(path, to)
    if agent.device.type != "cpu":
        raise DeviceError(f"export: the agent is on {agent.device}, expected cpu: pyrl.load(path, device='cpu')")
    observations = _observations(agent.observation_space)
    arrays = [torch.as_tensor(pick(observations, leaf)) for leaf, _ in leaves(agent.observation_space)]
    path.parent.mkdir(parents=True, exist_ok=True)
    unchecked = path.with_name(f".{path.name}.unchecked{path.suffix}")
    with _quiet(), torch.no_grad(), _float32(agent):
        policy = DeployedPolicy(agent).eval()
        try:
            acts = _WRITERS[form](policy, arrays, unchecked)
            original: Acts = agent.act
            whose = "the agent"
            if agent.config.precision != "float32":
                whose, original = "the agent in float32", _acts_by(policy, policy.paths)
            _check(_by_pieces(acts, observations), _by_pieces(original, observations), whose, agent)
            os.replace(unchecked, path)
        finally:
            unchecked.unlink(missing_ok=True)
    return path


def _form(path: Path, to: Format | None) -> Format:
    if to is not None and to not in get_args(Format):
        raise UnknownNameError(f"export: to is {to!r}, expected one of {', '.join(get_args(Format))}")
    if to is None and path.suffix not in SUFFIXES:
        raise UnknownNameError(f"export: path is {str(path)!r}, whose suffix names no form: expected {', '.join(SUFFIXES)}, or to=")
    return to or SUFFIXES[path.suffix]


def _observations(space: Any, count: int = CHECKED) -> Observation:
    """Random observations [count, ...], the same every time."""
    from gymnasium.vector.utils import batch_space

    batch: Any = batch_space(space, count)
    batch.seed(0)
    return map_observation(np.asarray, batch.sample())


Acts: TypeAlias = Callable[[Observation], Any]  # actions for a batch of observations


def _by_pieces(acts: Acts, observations: Observation) -> np.ndarray:
    """Actions for all observations; convolutions of all at once would need much memory."""
    pieces = (map_observation(lambda x, at=at: x[at : at + _PIECE], observations) for at in range(0, CHECKED, _PIECE))
    return np.concatenate([np.asarray(acts(piece)) for piece in pieces])


def _acts_by(function: Callable[..., Tensor], paths: list[Keys]) -> Acts:
    """``function`` of one tensor for each array."""
    return lambda observation: function(*(torch.as_tensor(pick(observation, path)) for path in paths)).numpy()


def _traced(policy: DeployedPolicy, arrays: list[Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    sizes = {"arrays": tuple({0: batch} for _ in arrays)}
    try:
        return torch.export.export(policy, tuple(arrays), dynamic_shapes=sizes, strict=False)
    except Exception as error:
        raise NetworkError(f"export: torch cannot trace this network for a batch of any size: {error}") from error


def _write_onnx(policy: DeployedPolicy, arrays: list[Tensor], path: Path) -> Acts:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise ModuleNotFoundError(
            f"export: onnx needs the packages onnx, onnxscript and onnxruntime: pip install 'pyrl[onnx]' ({error})"
        ) from None
    names = [".".join(map(str, ("observation", *leaf))) for leaf in policy.paths]
    program = torch.onnx.export(
        _traced(policy, arrays), (), input_names=names, output_names=["action"], opset_version=_OPSET, dynamo=True, verbose=False
    )
    assert program is not None
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = {own.name for own in session.get_inputs()}  # an array that the policy does not look at is not among them
    given = [(name, path) for name, path in zip(names, policy.paths) if name in wanted]
    return lambda observation: session.run(["action"], {name: pick(observation, path) for name, path in given})[0]


def _write_torchscript(policy: DeployedPolicy, arrays: list[Tensor], path: Path) -> Acts:
    traced = torch.jit.trace(policy, tuple(x[:2] for x in arrays), check_trace=False)
    torch.jit.freeze(traced).save(path)
    loaded = torch.jit.load(path)
    return _acts_by(loaded, policy.paths)


def _write_numpy(policy: DeployedPolicy, arrays: list[Tensor], path: Path) -> Acts:
    agent = policy.agent
    function, data = numpy_function(_traced(policy, arrays), "_act")
    shapes = [(leaf, tuple(space.shape), np.dtype(space.dtype).name) for leaf, space in leaves(agent.observation_space)]
    about = f"{agent.name}: {agent.observation_space} -> {agent.action_space}".replace("\\", "/").replace('"""', "'''")
    path.write_text(_MODULE.format(about=about, arrays=shapes, function=function, data=data))
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names["act"]


_MODULE = '''"""A policy, exported from pyrl. It needs NumPy only.

{about}

    from policy import act
    action = act(observation)    # one observation or a batch of them, NumPy in, NumPy out
"""

import base64
import io

import numpy as np

_arrays = {arrays}  # of an observation: where each is, its shape, its dtype


def act(observation):
    """The policy's action for one observation, or its actions [B, ...] for a batch [B, ...]."""
    given = []
    for path, shape, dtype in _arrays:
        x = observation
        for key in path:
            x = x[key]
        x = np.asarray(x, dtype)
        if x.shape[x.ndim - len(shape):] != shape or x.ndim > len(shape) + 1:
            where = "observation" + "".join("[%r]" % (key,) for key in path)
            raise ValueError("%s has shape %s, expected %s or [B, ...] of it" % (where, list(x.shape), list(shape)))
        given.append((x, x.ndim == len(shape)))
    single = given[0][1]
    if any(other != single for _, other in given):
        raise ValueError("some arrays of the observation are single, others are batches")
    action = _act(*(x[None] if single else x for x, _ in given))
    return action[0] if single else action


{function}

_constants = dict(np.load(io.BytesIO(base64.b64decode("""
{data}"""))))
'''

_WRITERS: dict[str, Callable[[DeployedPolicy, list[Tensor], Path], Acts]] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "numpy": _write_numpy,
}


def _check(found: np.ndarray, expected: np.ndarray, whose: str, agent: Agent) -> None:
    """RuntimeError unless the actions are the same, up to the roundings of another order of sums."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        what = f"{found.dtype} {list(found.shape)}, those of {whose} {expected.dtype} {list(expected.shape)}"
        raise RuntimeError(f"export: the actions of the file are {what}; this is an error of pyrl's")
    if isinstance(agent.action_space, spaces.Box) and expected.dtype.kind == "f":
        same = np.isclose(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
    else:
        same = found == expected
    wrong = np.flatnonzero(~same.reshape(len(same), -1).all(1))
    if len(wrong) > 1:
        first = wrong[0]
        what = f"{found[first].tolist()} for observation {first}, where {whose} chooses {expected[first].tolist()}"
        raise RuntimeError(f"export: {len(wrong)} of {len(same)} actions differ: {what}; the file was not kept")


@contextmanager
def _float32(agent: Agent) -> Iterator[None]:
    """Within it, convolutional networks compute in float32."""
    from pyrl.nets.convolutional import set_precision

    precision = agent.config.precision
    for network in agent.modules().values():
        set_precision(network, "float32")
    try:
        yield
    finally:
        for network in agent.modules().values():
            set_precision(network, precision)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters of torch warn of their own future, and log which packages they miss."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
