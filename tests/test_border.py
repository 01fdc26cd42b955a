"""The border: whatever is handed to a function is honoured or refused by name, and nothing crashes (`tests/fuzz/border.py`)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from signatures import TABLE

from pyrl import _core, ops
from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer
from pyrl.errors import DeviceError, DTypeError

ROOT = Path(__file__).parents[1]
CLASSES = [value for value in vars(_core).values() if isinstance(value, type)]


def test_fuzzed_calls_give_what_plain_copies_give_or_a_typed_error(tmp_path):
    trace = tmp_path / "call"
    # As `python -m tests.fuzz.border`, from another folder: in this one the source tree would hide the installed package.
    code = f"import runpy, sys; sys.path.append({str(ROOT)!r}); runpy.run_module('tests.fuzz.border', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, "--calls", "5000", "--seed", "0", "--trace", str(trace)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, f"{run.stdout}{run.stderr[-2000:]}\nlast: {trace.read_text() if trace.exists() else ''}"


def test_the_fuzzer_calls_every_function():
    functions = {name for name in ops.__all__ if callable(getattr(ops, name)) and not isinstance(getattr(ops, name), type)}
    assert functions - set(TABLE) == {"bfloat16_products", "cuda_built", "num_threads", "set_num_threads", "simd_level"}  # no arrays


def test_a_wrong_number_of_arguments_names_the_function():
    with pytest.raises(TypeError, match=r"^gae takes 10 positional arguments, got 1$"):
        _core.gae(np.zeros((2, 2)))
    with pytest.raises(TypeError, match=r"^RunningMoments\.\w+ takes \d+ positional arguments, got 9$"):
        _core.update_moments(*[np.zeros(1)] * 9)


def test_pairs_are_checked_as_pairs():
    x = np.zeros((3, 4), np.float32), np.zeros((3, 2), np.float32)
    with pytest.raises(DTypeError, match=r"squashed_gaussian: out is a numpy.ndarray, expected a tuple \(action, log_prob\)"):
        ops.squashed_gaussian(*x, out=np.zeros((3, 2), np.float32))
    with pytest.raises(DTypeError, match=r"squashed_gaussian: log_std_range is a tuple, expected a tuple \(low, high\)"):
        ops.squashed_gaussian(*x, log_std_range=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match=r"squashed_gaussian: log_std_range\[1\] is 0"):
        ops.squashed_gaussian(*x, log_std_range=(1.0, 0.0))


def needs_an_object(kind, member):
    return not member.startswith("_") and not isinstance(vars(kind)[member], staticmethod)


@pytest.mark.parametrize(
    ("kind", "member"),
    [(kind, member) for kind in CLASSES for member in vars(kind) if member == "__len__" or needs_an_object(kind, member)],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_an_object_without_init_is_refused(kind, member):
    def use(*given):
        value = getattr(kind.__new__(kind), member)
        return value(*given) if callable(value) else value

    messages = []
    for count in range(12):  # the wrong number of arguments is a TypeError too
        with pytest.raises(TypeError) as error:
            use(*[np.zeros(1)] * count)
        messages.append(str(error.value))
    assert any("__init__ was not called" in message for message in messages)


def test_a_stream_without_init_is_refused_by_every_sampler():
    with pytest.raises(TypeError, match="RandomStream: __init__ was not called"):
        ops.permutation(3, ops.RandomStream.__new__(ops.RandomStream))


def resized(x):
    whole = torch.cat([x, x])
    rest = whole[4:]
    whole.untyped_storage().resize_(0)
    return rest


STRANGE = {
    "negated": (lambda x: torch._neg_view(-x), ValueError, r"pass target.resolve_neg\(\)"),
    "imaginary part": (lambda x: torch.tensor([1 + 2j]).conj().imag, ValueError, r"pass target.resolve_neg\(\)"),
    "requires grad": (lambda x: x.requires_grad_(), ValueError, r"pass target.detach\(\)"),
    "resized": (resized, ValueError, "holds no data"),
    "functional": (torch._to_functional_tensor, ValueError, "no data"),
    "meta": (lambda x: x.to("meta"), DeviceError, "meta device"),
    "sparse": (lambda x: x.to_sparse(), DTypeError, "layout torch.sparse_coo"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), DTypeError, r"pass target.dequantize\(\)"),
    "nested": (lambda x: torch.nested.nested_tensor([x]), DTypeError, "nested tensor"),
    "masked": (lambda x: np.ma.masked_array(x.numpy(), [0, 1, 0, 0]), DTypeError, r"pass target.filled\(value\)"),
    "unaligned": (lambda x: np.zeros(17, np.uint8)[1:].view(np.float32), ValueError, r"pass target.copy\(\)"),
    "swapped": (lambda x: x.numpy().astype(">f4"), DTypeError, ">f4 .in the other byte order."),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STRANGE)
def test_arrays_that_are_not_their_memory_are_refused_by_name(kind):
    make, error, text = STRANGE[kind]
    array = make(torch.arange(4.0))
    with pytest.raises(error, match=f"^polyak: target .*{text}") as caught:
        ops.polyak(array, np.ones(4, np.float32), 0.5)
    assert "Exception raised from" not in str(caught.value)


def priorities_of(**options):
    buffer = PrioritizedReplayBuffer(16, Box(-1, 1, (1,)), Discrete(2), **options)
    for step in range(8):
        buffer.add(np.float32([step]), 0, 1.0, np.float32([step + 1]), False, False)
    return buffer


def test_no_priorities_add_up_to_infinity():
    buffer = priorities_of(alpha=1.0)
    index = buffer.sample(8).index
    before = buffer.total_priority
    for worst in (1e308, 1e151, float("inf"), -1.0):
        with pytest.raises(ValueError, match=r"^update_priorities: priority of element 7 is "):
            buffer.update_priorities(index, np.r_[np.ones(7), worst])
        assert buffer.total_priority == before
    buffer.update_priorities(index, np.full(8, 3e150))
    assert np.isfinite(buffer.total_priority)
    assert len(set(buffer.sample(8).index.tolist())) > 1
    for epsilon in (1e-200, 1e308, float("nan")):
        with pytest.raises(ValueError, match="epsilon is"):
            priorities_of(epsilon=epsilon)


def test_a_state_whose_flags_do_not_follow_from_the_rest_is_refused():
    buffer = priorities_of()
    state = buffer.state_dict()
    flags = state["flags"].copy()
    for bit in range(6):
        cleared = flags & ~np.uint8(1 << bit)
        if (cleared == flags).all():
            continue
        with pytest.raises(ValueError, match=r"^load_state_dict: "):
            buffer.load_state_dict(state | {"flags": cleared, "priorities": np.zeros_like(state["priorities"])})
    assert len(buffer.sample(4).index) == 4


SIZES = [2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**63, 2**200, -1, 0, -(2**63), -(2**64)]


@pytest.mark.parametrize(
    ("name", "value"),
    # A capacity of 2^31 is a size that memory may hold.
    [(n, v) for n in ("capacity", "num_envs", "n_step", "frame_stack") for v in SIZES if n != "capacity" or not 2**31 - 1 <= v <= 2**31],
)
def test_sizes_do_not_overflow(name, value):
    with pytest.raises((ValueError, MemoryError), match=rf"^(ReplayBuffer: {name} is|ReplayBuffer: capacity is|replay: )"):
        ReplayBuffer(**({"capacity": 99, "observation_space": Box(-1, 1, (1,)), "action_space": Discrete(2)} | {name: value}))
