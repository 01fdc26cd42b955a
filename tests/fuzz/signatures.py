"""Every function and class of the border, with valid arguments: one table, from which the fuzzer makes its calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from pyrl import ops
from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer, Window


@dataclass
class Case:
    """``call(object, **values)``; ``setup()`` makes the object anew, ``state(object)`` is all that a call may change in it."""

    values: dict[str, Any]
    call: Callable[..., Any]
    setup: Callable[[], Any] = lambda: None
    state: Callable[[Any], Any] = lambda _: ()
    outs: set[str] = field(default_factory=set)  # arrays that are written
    sizes: set[str] = field(default_factory=set)  # numbers that decide how much is allocated


R = np.random.Generator


def floats(r: R, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    return r.standard_normal(shape).astype(dtype)


def flags(r: R, *shape: int) -> np.ndarray:
    return r.random(shape) < 0.2


def real(r: R) -> Any:
    return r.choice([np.float32, np.float64])


def rollout(r: R, name: str) -> Case:
    T, N, t = int(r.integers(0, 9)), int(r.integers(0, 20)), real(r)
    short = bool(r.integers(2))
    values: dict[str, Any] = {"reward": floats(r, T, N, dtype=t), "value": floats(r, T + short, N, dtype=t)}
    values["next_value"] = None if short else floats(r, T, N, dtype=t)
    values |= {"terminated": flags(r, T, N), "truncated": flags(r, T, N), "final_value": floats(r, T, N, dtype=t) if short else None}
    values |= {"valid": ~flags(r, T, N) if r.integers(2) else None, "gamma": 0.9}
    extra = {
        "gae": {"gae_lambda": 0.9},
        "lambda_return": {"lambda_": 0.9},
        "n_step_return": {"n": int(r.integers(1, 5))},
        "vtrace": {"lambda_": 0.9},
    }
    values |= extra.get(name, {})
    if name == "vtrace":
        values |= {"log_prob": floats(r, T, N, dtype=t), "behaviour_log_prob": floats(r, T, N, dtype=t), "rho_bar": 1.0, "c_bar": 1.0}
    pair = name in ("gae", "vtrace")
    outs = {}
    if r.integers(2):
        outs = {k: np.zeros((T, N), t) for k in (("out0", "out1") if pair else ("out0",))}

    def call(_: Any, out0: Any = None, out1: Any = None, **given: Any) -> Any:
        return getattr(ops, name)(**given, out=(out0, out1) if pair and outs else out0)

    return Case(values | outs, call, outs=set(outs))


def drawn(r: R, values: dict[str, Any], name: str, sizes: tuple[str, ...] = (), **outs: np.ndarray) -> Case:
    outs = outs if r.integers(2) else {}

    def call(random: Any, out0: Any = None, out1: Any = None, **given: Any) -> Any:
        out = (out0, out1) if len(outs) == 2 else out0
        return getattr(ops, name)(**given, random=random, out=out)

    return Case(values | outs, call, lambda: ops.RandomStream(3), lambda random: random.state, set(outs), set(sizes))


def uniform_indices(r: R) -> Case:
    size = int(r.integers(0, 40))
    values = {"size": size, "high": int(r.integers(40, 90)), "replacement": bool(r.integers(2))}
    return drawn(r, values, "uniform_indices", ("size", "high"), out0=np.zeros(size, np.int64))


def permutation(r: R) -> Case:
    n = int(r.integers(0, 40))
    return drawn(r, {"n": n}, "permutation", ("n",), out0=np.zeros(n, np.int64))


def sample_categorical(r: R) -> Case:
    B, K = int(r.integers(0, 9)), int(r.integers(1, 20))
    mask = ~flags(r, B, K)
    mask[:, :1] = True  # each row allows an action
    values = {"logits": floats(r, B, K), "deterministic": bool(r.integers(2)), "mask": mask if r.integers(2) else None}
    return drawn(r, values, "sample_categorical", out0=np.zeros(B, np.int64), out1=np.zeros(B, np.float32))


def sample_multi_categorical(r: R) -> Case:
    B, nvec = int(r.integers(0, 9)), r.integers(1, 6, int(r.integers(1, 4))).tolist()
    K, M = sum(nvec), len(nvec)
    nvec_or_huge = nvec if r.integers(8) else [2**62] * 4 + nvec
    values = {"logits": floats(r, B, K), "nvec": nvec_or_huge, "deterministic": bool(r.integers(2)), "mask": None}
    return drawn(r, values, "sample_multi_categorical", out0=np.zeros((B, M), np.int64), out1=np.zeros(B, np.float32))


def sample_gaussian(r: R) -> Case:
    B, A = int(r.integers(0, 9)), int(r.integers(1, 9))
    values = {"mean": floats(r, B, A), "log_std": floats(r, *((A,) if r.integers(2) else (B, A))), "deterministic": bool(r.integers(2))}
    return drawn(r, values, "sample_gaussian", out0=np.zeros((B, A), np.float32), out1=np.zeros(B, np.float32))


def take_rows(r: R) -> Case:
    M, B = int(r.integers(1, 9)), int(r.integers(0, 9))
    values = {"a": floats(r, M, 3), "b": r.integers(0, 9, M), "c": flags(r, M), "index": r.integers(0, M, B)}
    outs = {"oa": np.zeros((B, 3), np.float32), "ob": np.zeros(B, np.int64), "oc": np.zeros(B, bool)} if r.integers(2) else {}

    def call(_: Any, a: Any, b: Any, c: Any, index: Any, oa: Any = None, ob: Any = None, oc: Any = None) -> Any:
        return ops.take_rows((a, b, c), index, (oa, ob, oc) if outs else None)

    return Case(values | outs, call, outs=set(outs))


def plain_call(function: Any, values: dict[str, Any], outs: dict[str, Any]) -> Case:
    return Case(values | outs, lambda _, **given: function(**given), outs=set(outs))


def policy_loss(r: R) -> Case:
    B, K, t = int(r.integers(1, 9)), int(r.integers(1, 7)), real(r)
    values: dict[str, Any] = {"output": floats(r, B, K, dtype=t), "advantage": floats(r, B, dtype=t), "clip_range": 0.2, "ent_coef": 0.01}
    values |= {"log_prob_old": -abs(floats(r, B, dtype=t)) if r.integers(2) else None, "normalize_advantage": bool(r.integers(2))}
    outs = {"d_output": np.zeros((B, K), t)} if r.integers(2) else {}
    if r.integers(2):
        values |= {"nvec": [K], "action": r.integers(0, K, B)}
    else:
        values |= {"log_std": floats(r, K, dtype=t), "action": floats(r, B, K, dtype=t)}
        outs |= {"d_log_std": np.zeros(K, t)}
    return plain_call(ops.policy_loss, values, outs)


def value_loss(r: R) -> Case:
    B, t = int(r.integers(1, 9)), real(r)
    values = {"value": floats(r, B, dtype=t), "return_": floats(r, B, dtype=t), "value_old": floats(r, B, dtype=t), "clip_range": 0.2}
    values |= {"weight": floats(r, B, dtype=t), "coefficient": 0.5, "huber": bool(r.integers(2))}
    return plain_call(ops.value_loss, values, {"d_value": np.zeros((B, 1), t)} if r.integers(2) else {})


def q_loss(r: R) -> Case:
    B, A, t = int(r.integers(1, 9)), int(r.integers(1, 7)), real(r)
    values = {
        "q": floats(r, B, A, dtype=t),
        "action": r.integers(0, A, B),
        "reward": floats(r, B, dtype=t),
        "discount": floats(r, B, dtype=t),
    }
    values |= {
        "next_q_target": floats(r, B, A, dtype=t),
        "next_q_online": floats(r, B, A, dtype=t),
        "weight": floats(r, B, dtype=t),
        "huber": True,
    }
    return plain_call(ops.q_loss, values, {"d_q": np.zeros((B, A), t), "td_error": np.zeros(B, t)} if r.integers(2) else {})


def dueling(r: R) -> Case:
    B, A, t = int(r.integers(0, 9)), int(r.integers(1, 7)), real(r)
    outs = {"out": np.zeros((B, A), t)} if r.integers(2) else {}
    return plain_call(ops.dueling, {"value": floats(r, B, 1, dtype=t), "advantage": floats(r, B, A, dtype=t)}, outs)


def dueling_backward(r: R) -> Case:
    B, A, t = int(r.integers(0, 9)), int(r.integers(1, 7)), real(r)
    outs = {"d_value": np.zeros((B, 1), t), "d_advantage": np.zeros((B, A), t)} if r.integers(2) else {}
    return plain_call(ops.dueling_backward, {"d_q": floats(r, B, A, dtype=t)}, outs)


def squashed_gaussian(r: R) -> Case:
    B, A, t = int(r.integers(0, 9)), int(r.integers(1, 5)), real(r)
    outs = {"out0": np.zeros((B, A), t), "out1": np.zeros(B, t)} if r.integers(2) else {}

    def call(_: Any, output: Any, noise: Any, out0: Any = None, out1: Any = None) -> Any:
        return ops.squashed_gaussian(output, noise, out=None if out0 is None else (out0, out1))

    return Case({"output": floats(r, B, 2 * A, dtype=t), "noise": floats(r, B, A, dtype=t)} | outs, call, outs=set(outs))


def squashed_gaussian_backward(r: R) -> Case:
    B, A, t = int(r.integers(0, 9)), int(r.integers(1, 5)), real(r)
    values = {"output": floats(r, B, 2 * A, dtype=t), "noise": floats(r, B, A, dtype=t), "action": floats(r, B, A, dtype=t)}
    values |= {"d_action": floats(r, B, A, dtype=t), "d_log_prob": 0.1}
    return plain_call(ops.squashed_gaussian_backward, values, {"d_output": np.zeros((B, 2 * A), t)} if r.integers(2) else {})


def optimizer(r: R, name: str) -> Case:
    n, t = int(r.integers(1, 40)), real(r)
    values: dict[str, Any] = {"gradients": floats(r, n, dtype=t), "lr": 0.1, "eps": 1e-5, "weight_decay": 0.01, "max_grad_norm": 1.0}
    outs = {"parameters": floats(r, n, dtype=t), "step": np.array(3, np.float32)}
    outs |= {k: abs(floats(r, n, dtype=t)) for k in (("exp_avg", "exp_avg_sq") if name == "adam" else ("square_avg",))}
    return plain_call(getattr(ops, name), values, outs)


def polyak(r: R) -> Case:
    n, t = int(r.integers(1, 40)), real(r)
    return plain_call(ops.polyak, {"online": floats(r, n, dtype=t), "tau": 0.1}, {"target": floats(r, n, dtype=t)})


def copy_nontemporal(r: R) -> Case:
    n, t = int(r.integers(1, 400)), real(r)
    return plain_call(ops.copy_nontemporal, {"array": floats(r, n, dtype=t)}, {"kept": floats(r, n, dtype=t)})


def moments(r: R, name: str) -> Case:
    B, D = int(r.integers(1, 9)), int(r.integers(1, 5))
    x = floats(r, B, D, dtype=real(r))

    def setup() -> Any:
        made = ops.RunningMoments((D,))
        made.update(np.arange(3.0 * D).reshape(3, D))
        return made

    values: dict[str, Any] = {"x": x}
    outs: dict[str, Any] = {}
    if name == "normalize":
        values |= {"clip": 5.0, "epsilon": 1e-8, "center": bool(r.integers(2))}
        outs = {"out": np.zeros((B, D), np.float32)} if r.integers(2) else {}
        return Case(values | outs, lambda m, **given: m.normalize(**given), setup, lambda m: m.state_dict(), set(outs))
    return Case(values, lambda m, x: m.update(x), setup, lambda m: m.state_dict())


def network(r: R, name: str) -> Case:
    B, t = int(r.integers(0, 9)), real(r)
    layers = [ops.Layer(4, 3, 0, 12, 15, 18, "tanh"), ops.Layer(3, 2, 21, None)]
    parameters = floats(r, 30, dtype=t)
    two = bool(r.integers(2))
    x = floats(r, B, 3 if two else 4, dtype=t)
    x1 = floats(r, B, 1, dtype=t) if two else None
    if name == "backward":

        def setup() -> Any:
            made = ops.Network(layers, np.dtype(t).name)
            made.forward(parameters, x, x1)
            return made

        outs = {"gradients": np.zeros(30, t), "dx": np.zeros((B, x.shape[1]), t)}
        outs |= {"dx1": np.zeros((B, 1), t)} if two else {}
        return Case(
            {"parameters": parameters, "dy": floats(r, B, 2, dtype=t)} | outs, lambda n, **given: n.backward(**given), setup, outs=set(outs)
        )
    outs = {"out": np.zeros((B, 2), t)} if r.integers(2) else {}
    values = {"parameters": parameters, "x": x, "x1": x1} | outs
    return Case(values, lambda n, **given: getattr(n, name)(**given), lambda: ops.Network(layers, np.dtype(t).name), outs=set(outs))


def sum_tree(r: R, name: str) -> Case:
    weight, index = abs(floats(r, 20, dtype=np.float64)) + 0.1, r.integers(0, 20, 3)

    def setup() -> Any:
        made = ops.SumTree(20)
        made.set(np.arange(20), weight)
        return made

    given: dict[str, Any] = {"index": index}
    given |= {"set": {"weight": abs(floats(r, 3, dtype=real(r)))}, "importance": {"beta": 0.4}}.get(name, {})
    if name == "set_priority":
        given |= {"priority": abs(floats(r, 3, dtype=real(r))), "alpha": 0.6, "epsilon": 1e-6}
    if name == "find":
        given = {"value": r.random(3)}
    if name == "draw":
        return Case({"size": 3}, lambda t, size: t.draw(size, ops.RandomStream(3)), setup, lambda t: t.weights(), sizes={"size"})
    return Case(given, lambda t, **values: getattr(t, name)(**values), setup, lambda t: t.weights())


N = 2
SPACE = Dict({"image": Box(0, 255, (2, 2), np.uint8), "flags": MultiBinary(3), "x": Box(-1, 1, (3,), np.float32)})


def rows(r: R, *lead: int) -> dict[str, Any]:
    lead = (*lead, N)
    return {
        "image": r.integers(0, 255, (*lead, 2, 2), np.uint8), "flags": r.integers(0, 2, (*lead, 3), np.int8), "x": floats(r, *lead, 3),
        "action": r.integers(0, 4, lead), "reward": floats(r, *lead), "n_image": r.integers(0, 255, (*lead, 2, 2), np.uint8),
        "n_flags": r.integers(0, 2, (*lead, 3), np.int8), "n_x": floats(r, *lead, 3), "terminated": flags(r, *lead),
        "truncated": flags(r, *lead), "valid": ~flags(r, *lead), "extra": flags(r, *lead),
    }  # fmt: skip


def extend(buffer: Any, image: Any, flags: Any, x: Any, n_image: Any, n_flags: Any, n_x: Any, **given: Any) -> None:
    before, after = {"image": image, "flags": flags, "x": x}, {"image": n_image, "flags": n_flags, "x": n_x}
    buffer.extend(observation=before, next_observation=after, **given)


def add(buffer: Any, image: Any, flags: Any, x: Any, n_image: Any, n_flags: Any, n_x: Any, action: Any, reward: Any, terminated: Any,
        truncated: Any, valid: Any, extra: Any) -> None:  # fmt: skip
    before, after = {"image": image, "flags": flags, "x": x}, {"image": n_image, "flags": n_flags, "x": n_x}
    buffer.add(before, action, reward, after, terminated, truncated, valid=valid, extra=extra)


def made_buffer(prioritized: bool, n_step: int = 2, adds: int = 6) -> Any:
    kind = PrioritizedReplayBuffer if prioritized else ReplayBuffer
    buffer = kind(24, SPACE, Discrete(4), num_envs=N, n_step=n_step, frame_stack=2, extra={"extra": ((), "bool")})
    for row in first_rows(adds):
        add(buffer, **row)
    return buffer


@cache
def first_rows(adds: int) -> list[dict[str, Any]]:
    """What every buffer of the table holds from the start; drawn once."""
    random = np.random.default_rng(5)
    return [rows(random) for _ in range(adds)]


def buffer_state(buffer: Any) -> Any:
    return {k: v for k, v in buffer.state_dict().items() if k != "options"}


def buffer_case(r: R, values: dict[str, Any], call: Any, outs: set[str] = frozenset(), sizes: set[str] = frozenset()) -> Case:  # type: ignore[assignment]
    prioritized = bool(r.integers(2))
    return Case(values, call, lambda: made_buffer(prioritized), buffer_state, set(outs), set(sizes))


def replay_sample(r: R) -> Case:
    B = int(r.integers(1, 4))
    if r.integers(2):
        return buffer_case(r, {"batch_size": B}, lambda b, batch_size: b.sample(batch_size), sizes={"batch_size"})
    like = made_buffer(True).sample(B)
    outs = {k: getattr(like, k) for k in ("action", "reward", "terminated", "discount", "index", "weight")}
    outs |= like.observation | {"n_" + k: v for k, v in like.next_observation.items()} | like.extra

    def call(buffer: Any, image: Any, flags: Any, x: Any, n_image: Any, n_flags: Any, n_x: Any, extra: Any, **fields: Any) -> Any:
        before, after = {"image": image, "flags": flags, "x": x}, {"image": n_image, "flags": n_flags, "x": n_x}
        buffer.sample(B, type(like)(observation=before, next_observation=after, extra={"extra": extra}, **fields))

    return Case(outs, call, lambda: made_buffer(True), buffer_state, set(outs))


def replay_index(r: R, name: str) -> Case:
    index = made_buffer(False).sample(3).index
    return buffer_case(r, {"index": index}, lambda b, index: getattr(b, name)(index))


def replay_draw(r: R) -> Case:
    values = {"batch_size": int(r.integers(1, 4)), "replacement": True}
    return buffer_case(r, values, lambda b, **given: b.draw(**given), sizes={"batch_size"})


def replay_window(r: R) -> Case:
    values = {"index": made_buffer(False).sample(3).index, "n_step": int(r.integers(1, 5)), "frame_stack": int(r.integers(1, 3))}
    return buffer_case(r, values, lambda b, index, **lengths: b.get(index, window=Window(**lengths)), sizes={"frame_stack"})


def replay_weight(r: R) -> Case:
    index = made_buffer(True).sample(3).index
    return Case({"index": index}, lambda b, index: b.weight(index), lambda: made_buffer(True), buffer_state)


def update_priorities(r: R) -> Case:
    values = {"index": made_buffer(True).sample(3).index, "priority": abs(floats(r, 3, dtype=real(r)))}

    def call(buffer: Any, index: Any, priority: Any) -> Any:
        buffer.update_priorities(index, priority)
        return buffer.total_priority, buffer.priorities(index), buffer.stale_updates

    return Case(values, call, lambda: made_buffer(True), lambda b: (buffer_state(b), b.stale_updates))


def load_state(r: R) -> Case:
    prioritized = bool(r.integers(2))
    state = made_buffer(prioritized).state_dict()
    options = state.pop("options")

    def call(buffer: Any, **arrays: Any) -> Any:
        buffer.load_state_dict({"options": options} | arrays)
        return buffer.sample(2) if len(buffer) >= 2 else None, buffer.episodes()

    names = {name.replace(".", "_").replace("[", "").replace("]", "").replace("'", ""): name for name in state}
    return Case(
        {short: state[name] for short, name in names.items()},
        lambda buffer, **given: call(buffer, **{names[k]: v for k, v in given.items()}),
        lambda: made_buffer(prioritized, adds=3),
        buffer_state,
    )


def make_buffer(r: R) -> Case:
    values = {"capacity": int(r.integers(4, 99)), "num_envs": 2, "n_step": 1, "gamma": 0.9, "frame_stack": 1, "seed": 0, "extra_shape": [2]}
    values |= {"alpha": 0.5, "epsilon": 1e-6}

    def call(_: Any, alpha: Any, epsilon: Any, extra_shape: Any, **given: Any) -> Any:
        made = PrioritizedReplayBuffer(
            observation_space=Box(-1, 1, (2,)),
            action_space=Discrete(2),
            alpha=alpha,
            epsilon=epsilon,
            extra={"e": (extra_shape, "f4")},
            **given,
        )
        return made.capacity, len(made)

    return Case(values, call, sizes={"capacity", "num_envs", "n_step", "frame_stack"})


def make_stream(r: R) -> Case:
    values = {"state": [int(r.integers(99)), 0, int(r.integers(99))]}
    return Case(values, lambda _, state: ops.permutation(3, ops.RandomStream.from_state(state)))


def make_network(r: R) -> Case:
    values = {"num_inputs": 3, "num_outputs": 2, "weight": 0, "bias": 6, "gain": None, "shift": None, "activation": "tanh"}
    return Case(
        values,
        lambda _, **given: ops.Network([ops.Layer(**given)]).infer(np.ones(10, np.float32), np.ones((2, 3), np.float32)),
        sizes={"num_inputs", "num_outputs"},
    )


TABLE: dict[str, Callable[[R], Case]] = {
    **{name: (lambda r, name=name: rollout(r, name)) for name in ("gae", "lambda_return", "discounted_return", "n_step_return", "vtrace")},
    **{f.__name__: f for f in (uniform_indices, permutation, sample_categorical, sample_multi_categorical, sample_gaussian, take_rows)},
    **{f.__name__: f for f in (policy_loss, value_loss, q_loss, dueling, dueling_backward, squashed_gaussian, squashed_gaussian_backward)},
    **{name: (lambda r, name=name: optimizer(r, name)) for name in ("adam", "rmsprop")},
    **{f.__name__: f for f in (polyak, copy_nontemporal)},
    **{f"RunningMoments.{name}": (lambda r, name=name: moments(r, name)) for name in ("update", "normalize")},
    **{f"Network.{name}": (lambda r, name=name: network(r, name)) for name in ("forward", "infer", "backward")},
    **{f"SumTree.{name}": (lambda r, name=name: sum_tree(r, name)) for name in ("set", "set_priority", "get", "importance", "find")},
    "SumTree.draw": lambda r: sum_tree(r, "draw"),
    "Network": make_network,
    "RandomStream": make_stream,
    "ReplayBuffer": make_buffer,
    "ReplayBuffer.add": lambda r: buffer_case(r, rows(r), add),
    "ReplayBuffer.extend": lambda r: buffer_case(r, rows(r, int(r.integers(0, 5))), extend),
    "ReplayBuffer.sample": replay_sample,
    "ReplayBuffer.draw": replay_draw,
    "ReplayBuffer.get in other windows": replay_window,
    "ReplayBuffer.delete": lambda r: replay_index(r, "delete"),
    "PrioritizedReplayBuffer.weight": replay_weight,
    "ReplayBuffer.get": lambda r: replay_index(r, "get"),
    "ReplayBuffer.is_drawable": lambda r: replay_index(r, "is_drawable"),
    "ReplayBuffer.load_state_dict": load_state,
    "PrioritizedReplayBuffer.update_priorities": update_priorities,
}  # fmt: skip
