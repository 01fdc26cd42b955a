"""Updates as CUDA graphs, with a stand-in for the graph: one that runs the captured call again at each replay, on the memory of the
capture and into the outputs of the first. What no stand-in can show is in tests/gpu/test_gpu_learning.py."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from agent_envs import OBSERVATION_SPACES, TwoPictures, advance
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from test_engines import CASES, TORCH_ONLY, batches, learned_state, make, weights
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import pyrl
from pyrl.engine import cuda_graph as captured_module
from pyrl.engine.arena import Arena
from pyrl.engine.cuda_graph import MAX_GRAPHS, GraphCache, PackedTensors, StaticInputs
from pyrl.engine.trainable import Trainable
from pyrl.engine.updater import DeviceReport, Updater
from pyrl.errors import DeviceError, NonFiniteError
from pyrl.nets import batched_mlp
from pyrl.ops import RandomStream
from pyrl.types import Batch, Learned, Progress

LEARNING = [case for case in (*CASES, *TORCH_ONLY) if case != "a3c"]
WARM_UP = 3
LATE = [("ddpg", "actor"), ("td3", "actor"), ("sac", "actor"), ("sac", "temperature"), ("svg", "actor"), ("tqc", "actor")]


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_module, "WARM_UP", WARM_UP)


class StandIn:
    """What a `CudaGraph` is to the rest."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.output: Any = None
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        output = self.call()
        if self.output is None:
            self.output = output
        elif isinstance(output, DeviceReport):
            self.output.values.copy_(output.values)
            for name, tensor in output.rest.items():
                self.output.rest[name].copy_(tensor)

    @staticmethod
    def warm_up(call: Callable[[], Any]) -> Any:
        return call()


class Pure(TorchDispatchMode):
    """Refuses what a capture refuses: to look at a value."""

    looking = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero", "aten.unique")

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not str(operation).startswith(self.looking), operation
        return operation(*args, **(kwargs or {}))


@contextmanager
def pure(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is read by the host, and nothing made from its memory."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an update moves data between host and device")

    def unseen(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with _disable_current_modes():
                return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch, Pure():
        patch.setattr(torch, "_fused_adam_", unseen(torch._fused_adam_))  # reads the rate on the CPU only
        patch.setattr(F, "one_hot", unseen(F.one_hot))  # checks its argument on the CPU only
        for name in ("as_tensor", "tensor", "from_numpy"):
            patch.setattr(torch, name, refuse)
        for name in ("cpu", "cuda", "numpy", "tolist", "item", "__bool__", "__float__", "__int__"):
            patch.setattr(torch.Tensor, name, refuse)
        yield


def assert_pure(agent: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = agent.updater._whole, []

    def watched(update: Any, placed: Any) -> DeviceReport:
        calls.append(update)
        with pure(monkeypatch):
            return whole(update, placed)

    monkeypatch.setattr(agent.updater, "_whole", watched)
    for _ in range(2):  # TD3's actor waits for the second
        agent.learn(data)
    assert calls


@pytest.mark.parametrize("case", LEARNING)
def test_updates_look_at_no_value(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = captured(case)
    assert_pure(agent, next(batches(agent)), monkeypatch)


@pytest.mark.parametrize("name", OBSERVATION_SPACES)
def test_encoders_look_at_no_value_and_take_nothing_from_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = OBSERVATION_SPACES[name]
    agents = [pyrl.make_agent("dqn", space, spaces.Discrete(3), engine="torch") for _ in range(2)]
    space.seed(0)
    one = batch_space(space, 4).sample()
    random = np.random.default_rng(0)
    reward, discount = random.normal(size=(2, 4)).astype(np.float32)
    batch = Batch(one, random.integers(0, 3, 4), reward, one, np.zeros(4, bool), discount, np.arange(4))
    assert_pure(as_on_a_gpu(agents[0]), batch, monkeypatch)
    assert_elsewhere(agents[1], batch, monkeypatch)


class Elsewhere(Updater):
    """On torch's device without memory: what an update takes from the host beside its arguments is refused there."""

    def __init__(self, updater: Updater) -> None:
        self.__dict__.update(updater.__dict__)
        self.device = torch.device("meta")
        self.reports: list[Any] = []

    def __call__(self, update: Any, *data: Any) -> dict[str, Any]:
        return self.collect([self.launch(update, *data)])[0]

    def launch(self, update: Any, *data: Any) -> Any:
        self.reports.append(update(*self.to_device(*data)))
        return {name: torch.zeros(()) if value.dim() == 0 else torch.zeros(1) for name, value in self.reports[-1].items()}


def assert_elsewhere(agent: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def differentiate(self: Arena, loss: torch.Tensor) -> None:
        parameters = [p for module in self.modules for p in module.parameters() if p.numel()]
        assert all(gradient.is_meta for gradient in torch.autograd.grad(loss, parameters, materialize_grads=True))

    monkeypatch.setattr(Arena, "differentiate", differentiate)
    monkeypatch.setattr(Arena, "sync", lambda self: None)
    monkeypatch.setattr(Arena, "ready", False)
    monkeypatch.setattr(Arena, "step", lambda self, max_grad_norm=None: None)
    monkeypatch.setattr(Trainable, "average", lambda *_: None)
    if hasattr(agent, "samples"):
        monkeypatch.setattr(agent, "_values", lambda observation, native: np.zeros(len(observation), np.float32))
    if hasattr(agent, "log_prob"):  # V-trace's of the whole rollout, before the update
        monkeypatch.setattr(agent, "log_prob", lambda samples, native: np.zeros(len(samples.log_prob), np.float32))
    agent.updater = Elsewhere(agent.updater)
    for module in agent.modules().values():
        module.to("meta")
    for _ in range(2):
        agent.learn(data)
    assert agent.updater.reports
    assert all(value.is_meta for report in agent.updater.reports for value in report.values())


class Count(TorchDispatchMode):
    """The operations dispatched, but for views and memory that is only made: what becomes nodes of a graph."""

    free = ("_unsafe_view", "empty", "empty_like", "new_empty", "empty_strided", "_record_function_enter_new", "_record_function_exit")

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        if not operation.is_view and name not in self.free:
            self.operations[name] += 1
        return operation(*args, **(kwargs or {}))


# Operations of an update and, of them, products of matrices. On a GPU a few are two nodes (norms, mse_loss), and those of polyak, noise and
# Rollback come in addition.
OPERATIONS = {
    "ppo categorical": (94, 16), "ppo gaussian": (105, 16), "a2c categorical": (83, 16), "dqn": (48, 11), "dqn dueling": (73, 19),
    "ddpg": (77, 28), "td3": (88, 28), "sac": (139, 28), "sac fixed temperature": (132, 28), "svg": (89, 28),
}  # fmt: skip


@pytest.mark.parametrize("case", OPERATIONS)
def test_updates_have_no_more_operations_than_they_had(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a kernel of a graph, and kernels so small cost the same whatever they do."""
    agent, counted = captured(case), []
    data = batches(agent)
    learn(agent, data, 2)
    whole = agent.updater._whole

    def watched(update: Any, placed: Any) -> DeviceReport:
        with Count() as count:
            report = whole(update, placed)
        counted.append(count.operations)
        return report

    monkeypatch.setattr(agent.updater, "_whole", watched)
    learn(agent, data, 2)
    most = max(counted, key=Counter.total)
    products = sum(most[name] for name in ("mm", "addmm", "bmm", "baddbmm"))
    assert most.total() <= OPERATIONS[case][0], most.most_common()
    assert products <= OPERATIONS[case][1], most.most_common()


@pytest.mark.parametrize("case", LEARNING)
def test_updates_take_nothing_from_the_host(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(case, "torch")
    assert_elsewhere(agent, next(batches(agent)), monkeypatch)


def captured(case: str, **options: Any) -> Any:
    """An agent whose updates run as on a GPU: nothing looks at a gradient, and all goes through graphs."""
    name, observation_space, action_space, settings = {**CASES, **TORCH_ONLY}[case]
    agent: Any = pyrl.make_agent(name, observation_space, action_space, seed=3, engine="torch", **{**settings, **options})
    return as_on_a_gpu(agent)


class OnGPU(Updater):
    """Whose networks of one shape are computed side by side, and whose updates are replayed."""

    graph = StandIn

    def captures(self) -> bool:
        return True

    def _whole(self, update: Any, data: Any) -> DeviceReport:
        with mock.patch.object(batched_mlp, "pays_off", return_value=True):
            return super()._whole(update, data)


def as_on_a_gpu(agent: Any) -> Any:
    agent.updater = OnGPU(agent.name, agent.device, "torch", *agent.updater.steps)
    return agent


def graphs(agent: Any) -> list[StandIn]:
    return agent.updater.graphs.graphs


def learn(agent: Any, data: Iterator[Any], times: int) -> list[Learned]:
    reports = []
    for _ in range(times):
        advance(agent, 4)
        reports.append(agent.learn(next(data)))
    return reports


def assert_together(agent: Any, other: Any, before: torch.Tensor) -> None:
    travelled = (weights(other) - before).norm()
    assert travelled > 1e-3
    assert (weights(agent) - weights(other)).norm() <= 1e-4 * travelled


@pytest.mark.parametrize("case", LEARNING)
def test_learns_what_torch_learns(case: str) -> None:
    agent, expected = captured(case), make(case, "torch")
    before, (data, same_data) = weights(agent), (batches(agent), batches(expected))
    for _ in range(12):
        (ours,), (theirs,) = learn(agent, data, 1), learn(expected, same_data, 1)
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-3, abs=1e-4)
        assert ours.metrics.keys() == theirs.metrics.keys()
        if ours.priority is not None:
            np.testing.assert_allclose(ours.priority, theirs.priority, atol=1e-4)
    assert_together(agent, expected, before)
    variants = [graph for graph in graphs(agent) if graph.replays >= 3]
    if agent.loop == "off_policy":  # rollouts have a number of valid steps of their own each, and so the last minibatches
        assert len(variants) == (2 if agent.name == "td3" else 1)


def test_a_call_is_captured_after_the_warm_up_and_then_replayed() -> None:
    runs, results = GraphCache(StandIn), []
    for i in range(WARM_UP + 3):
        results.append(runs("key", lambda i=i: torch.tensor(float(i))))
    assert [float(x) for x in results[:WARM_UP]] == [0.0, 1.0, 2.0]
    assert results[-1] is results[-2] is results[WARM_UP]  # the static output
    assert float(results[-1]) == WARM_UP
    assert [graph.replays for graph in runs.graphs] == [3]


def test_only_so_many_graphs_are_kept() -> None:
    runs = GraphCache(StandIn)
    for key in range(3 * MAX_GRAPHS):
        for _ in range(WARM_UP + 1):
            runs("main", lambda: torch.zeros(()))
            runs(key, lambda: torch.zeros(()))
    assert len(runs.entries) == MAX_GRAPHS
    assert runs.graphs[-2].replays == 3 * MAX_GRAPHS * (WARM_UP + 1) - WARM_UP  # the one in use stays


def sized(batch: Any, size: int) -> Any:
    """The first rows of a batch."""
    columns = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name != "extra"}
    return dataclasses.replace(batch, **{name: column[:size] for name, column in columns.items() if column is not None})


def test_another_batch_size_is_another_graph() -> None:
    agent, expected = captured("dqn"), make("dqn", "torch")
    before, data, sizes = weights(agent), batches(agent), [32] * 5 + [16] * 5 + [32] * 2 + [8] + [16] * 2
    for size in sizes:
        batch = sized(next(data), size)
        for each in (agent, expected):
            learned = each.learn(batch)
            assert learned.priority.shape == (size,)
    assert_together(agent, expected, before)
    assert sorted(graph.replays for graph in graphs(agent)) == [4, 4]  # none for the size that came once


def test_minibatches_that_do_not_come_again_are_not_captured() -> None:
    """The valid steps of rollouts differ in number, and so do the last minibatches of their passes."""
    agent = captured("ppo categorical", n_epochs=2)
    by_tail = {int(rollout.valid.sum()) % 32: rollout for rollout, _ in zip(batches(agent), range(8))}
    for rollout in by_tail.values():
        agent.learn(rollout)
    minibatches = sum(2 * (int(rollout.valid.sum()) // 32) for rollout in by_tail.values())
    assert [graph.replays for graph in graphs(agent)] == [minibatches - WARM_UP]


@pytest.mark.parametrize("case", ["dqn", "ppo categorical", "sac"])
def test_arguments_on_the_device_are_taken_where_they_lie(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StaticInputs, "is_on_host", staticmethod(lambda x: False))
    agent, expected = captured(case), make(case, "torch")
    before, (data, same_data) = weights(agent), (batches(agent), batches(expected))
    learn(agent, data, 20)
    learn(expected, same_data, 20)
    assert_together(agent, expected, before)
    assert any(graph.replays > 3 for graph in graphs(agent))


def test_inputs_copy_what_has_moved_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StaticInputs, "is_on_host", staticmethod(lambda x: False))
    fixed, first, second = torch.zeros(3), torch.ones(2), torch.full((2,), 2.0)
    inputs = StaticInputs([fixed, first], torch.device("cpu"))
    assert [x.data_ptr() for x in inputs([fixed, first])] == [fixed.data_ptr(), first.data_ptr()]
    a, b = inputs([fixed, second])
    assert a is fixed
    assert b.data_ptr() != second.data_ptr()
    assert b.tolist() == [2.0, 2.0]
    assert inputs([fixed, first])[1] is b
    assert b.tolist() == [1.0, 1.0]
    assert second.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("case", ["td3", "sac", "svg"])
def test_noise_is_drawn_by_the_update_where_the_stream_lies(case: str) -> None:
    """The numbers are those of a stream of the host."""
    agent, expected = captured(case), make(case, "torch")
    agent.learning = RandomStream(agent.seed, "learning", device="cpu")
    before, (data, same_data) = weights(agent), (batches(agent), batches(expected))
    learn(agent, data, 10)
    learn(expected, same_data, 10)
    assert_together(agent, expected, before)
    assert agent.learning.state == expected.learning.state
    assert graphs(agent)
    again = captured(case)
    again.load_state_dict(agent.state_dict())
    assert again.learning.state == agent.learning.state


def test_arguments_of_the_host_cross_in_one_block() -> None:
    tensors = [torch.arange(5), torch.tensor(0.25), torch.zeros(0, 3), torch.tensor([True, False]), torch.rand(3, 7, dtype=torch.float64)]
    inputs = StaticInputs(tensors, torch.device("cpu"))
    placed = inputs(tensors)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(placed, tensors))
    assert {x.untyped_storage().data_ptr() for x in placed} == {inputs.block.memory.untyped_storage().data_ptr()}
    assert all(x.data_ptr() % 64 == inputs.block.memory.data_ptr() % 64 for x in placed if x.numel())
    again = inputs([x + 1 if x.dtype != torch.bool else ~x for x in tensors])
    assert [x.data_ptr() for x in again] == [x.data_ptr() for x in placed]
    assert torch.equal(again[0], tensors[0] + 1)


def test_blocks_of_nothing() -> None:
    assert PackedTensors([], torch.device("cpu")).tensors == []


def assert_refused(agent: Any, data: Iterator[Any]) -> None:
    """An update that is not finite is caught, changes nothing, and the next one is made."""
    bad = next(data)
    bad.reward[...] = np.nan  # of every minibatch: each is an update of its own
    before, made = learned_state(agent), agent.updates
    with pytest.raises(NonFiniteError, match=r"step: (the|a) gradient"):
        agent.learn(bad)
    after = learned_state(agent)
    assert all(torch.equal(after[name], value) for name, value in before.items() if value.numel())
    assert agent.updates == made
    learn(agent, data, 1)
    assert all(tensor.isfinite().all() for tensor in learned_state(agent).values())
    assert agent.updates > made


@pytest.mark.parametrize("updates", [0, 8])
@pytest.mark.parametrize("case", LEARNING)
def test_a_loss_that_is_not_finite_is_caught_and_changes_nothing(case: str, updates: int) -> None:
    agent = captured(case)
    data = batches(agent)
    learn(agent, data, updates)
    assert_refused(agent, data)


@pytest.mark.parametrize("updates", [1, 9])
@pytest.mark.parametrize(("case", "late"), LATE)
def test_a_late_step_that_is_refused_undoes_the_earlier_ones(case: str, late: str, updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = captured(case)
    data = batches(agent)
    learn(agent, data, updates)
    poisoned, step = agent.trainables[late].arena, Arena.step

    def spoiled(self: Arena, max_grad_norm: float | None = None) -> None:
        if self is poisoned:
            self.gradients[0] = math.inf
        step(self, max_grad_norm)

    before = learned_state(agent)
    monkeypatch.setattr(Arena, "step", spoiled)
    with pytest.raises(NonFiniteError):
        learn(agent, data, 1)
    monkeypatch.setattr(Arena, "step", step)
    after = learned_state(agent)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    learn(agent, data, 1)
    assert not torch.equal(learned_state(agent)["model.critic.networks.0.0.weight"], after["model.critic.networks.0.0.weight"])


def test_a_refused_minibatch_ends_the_rollout_where_torch_ends_it() -> None:
    """Those before it count; those after it, begun before anyone looked, do not."""
    agent, expected = captured("ppo categorical"), make("ppo categorical", "torch")
    before, data = weights(agent), next(batches(agent))
    step, env = np.argwhere(data.valid)[7]
    data.extra["log_prob"][step, env] = np.nan
    for each in (agent, expected):
        with pytest.raises(NonFiniteError):
            each.learn(data)
    assert_together(agent, expected, before)


@pytest.mark.parametrize("case", ["dqn", "sac", "a2c categorical", "ppo categorical"])
def test_schedules_reach_the_graph(case: str) -> None:
    agent, expected = captured(case, learning_rate="linear_1e-2"), make(case, "torch")
    object.__setattr__(expected.config, "learning_rate", "linear_1e-2")
    before, (data, same_data) = weights(agent), (batches(agent), batches(expected))
    for i in range(10):
        for each, rollouts in ((agent, data), (expected, same_data)):
            each.progress = Progress(0, i / 9)
            learned = [arena.values for arena in each.updater.arenas if arena.optimizer is not None]
            moved = -torch.cat(learned)
            learn(each, rollouts, 1)
            moved += torch.cat(learned)
        assert float(agent.updater.learning_rate) == pytest.approx(1e-2 * (1 - i / 9))
    assert_together(agent, expected, before)
    assert moved.norm() == 0  # the last rate is zero


def test_the_rate_is_written_only_when_it_changes() -> None:
    agent = captured("sac")
    learn(agent, batches(agent), 2)
    version = agent.updater.learning_rate._version
    learn(agent, batches(agent), 2)
    assert agent.updater.learning_rate._version == version


@pytest.mark.parametrize("case", ["sac", "dqn", "a2c categorical"])
def test_graphs_are_dropped_when_their_memory_is(case: str) -> None:
    """Weights that are cast and optimisers that are loaded lie elsewhere."""
    agent, expected = captured(case), make(case, "torch")
    before, (data, same_data) = weights(agent), (batches(agent), batches(expected))
    for change in (
        lambda each: each.load_state_dict(copy.deepcopy(each.state_dict())),
        lambda each: [module.double() for module in each.modules().values()],
        lambda each: [m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True) for m in each.modules().values()],
    ):
        learn(agent, data, 6)
        learn(expected, same_data, 6)
        change(agent)
        change(expected)
    learn(agent, data, 6)
    learn(expected, same_data, 6)
    assert_together(agent, expected, before)


def test_frozen_weights_are_not_captured() -> None:
    agent = captured("dqn")
    data = batches(agent)
    learn(agent, data, 6)
    first = next(agent.q_network.parameters())
    first.requires_grad_(False)
    kept, replays = first.clone(), graphs(agent)[0].replays
    learn(agent, data, 2)
    assert torch.equal(first, kept)
    assert graphs(agent)[0].replays == replays


def test_pictures() -> None:
    options: dict[str, Any] = dict(n_steps=8, batch_size=16, n_epochs=2, num_envs=2, net_arch=())
    both = [pyrl.make_agent("ppo", TwoPictures.observation_space, TwoPictures.action_space, **options) for _ in range(2)]
    agent, expected = as_on_a_gpu(both[0]), both[1]
    before, (data, same_data) = weights(agent), (images(agent), images(expected))
    for _ in range(5):
        agent.learn(next(data))
        expected.learn(next(same_data))
    assert_together(agent, expected, before)


def images(agent: Any) -> Iterator[Any]:
    random = np.random.default_rng(0)
    for rollout in batches(agent):
        shape = rollout.observation.shape
        pictures = random.integers(0, 256, shape, np.uint8)
        final = random.integers(0, 256, rollout.final_observation.shape, np.uint8)
        yield dataclasses.replace(rollout, observation=pictures, final_observation=final)


def test_there_are_no_graphs_on_the_cpu() -> None:
    with pytest.raises(DeviceError, match="dqn: engine is 'graph', but the networks lie on the CPU, which has no CUDA graphs"):
        make("dqn", "graph")
