"""Updates on the GPU, at once and as CUDA graphs: the same learning, the same refusals, and nothing that waits in between."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import OBSERVATION_SPACES, TwoPictures
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from test_cuda_graph import assert_refused, assert_together, captured, images, learn, sized
from test_engines import CASES, batches, weights
from test_images import ALGORITHMS as SEEING

import pyrl
from pyrl.engine.cuda_graph import WARM_UP
from pyrl.types import Batch, Progress

LEARNING = [case for case in CASES if case != "a3c"]
UPDATES = WARM_UP + 20


def on_gpu(case: str, engine: str = "graph", **options: Any) -> Any:
    name, observation_space, action_space, settings = CASES[case]
    return pyrl.make_agent(name, observation_space, action_space, seed=3, engine=engine, device="cuda", **{**settings, **options})


def gpu_batches(agent: Any) -> Iterator[Batch]:
    """Batches in the same memory of the GPU, as ``sample(out=...)`` of a replay there writes them."""
    held: Any = None
    for batch in batches(agent):
        columns = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if getattr(batch, f.name) is not None}
        columns.pop("extra", None)
        if held is None:
            held = dataclasses.replace(batch, **{name: torch.as_tensor(column).cuda() for name, column in columns.items()})
        else:
            for name, column in columns.items():
                getattr(held, name).copy_(torch.as_tensor(column))
        yield held


def graphs(agent: Any) -> list[Any]:
    return agent.updater.graphs.graphs


@pytest.mark.parametrize("case", LEARNING)
def test_graphs_learn_what_eager_learns(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    agent, expected = on_gpu(case), on_gpu(case, "torch")
    before, (data, same_data) = weights(agent), (batches(agent), batches(expected))
    for _ in range(UPDATES if agent.loop == "off_policy" else 20):
        (ours,), (theirs,) = ([each.metrics for each in learn(*one, 1)] for one in ((agent, data), (expected, same_data)))
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3)
    travelled = (weights(expected) - before).norm()
    assert (weights(agent) - weights(expected)).norm() <= 1e-3 * travelled
    if agent.name != "a2c":  # whose rollouts differ in their number of valid steps
        assert graphs(agent)
    for graph in graphs(agent):
        assert graph.node_count is None or graph.node_count > 10
        with capsys.disabled():
            print(f"\n{case}: {graph.node_count} nodes")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, at the first compilation
@pytest.mark.parametrize("case", ["dqn", "sac", "ppo gaussian"])
def test_compiled_graphs_learn_what_eager_learns(case: str) -> None:
    agent, expected = on_gpu(case, "compile"), on_gpu(case, "torch")
    before, (data, same_data) = weights(agent), (batches(agent), batches(expected))
    for each, rollouts in ((agent, data), (expected, same_data)):
        learn(each, rollouts, UPDATES if agent.loop == "off_policy" else 10)
    assert (weights(agent) - weights(expected)).norm() <= 1e-2 * (weights(expected) - before).norm()
    assert graphs(agent)


@pytest.mark.parametrize("case", ["dqn", "sac", "ddpg"])
def test_batches_on_the_gpu_are_taken_where_they_lie(case: str) -> None:
    agent, expected = on_gpu(case), on_gpu(case)
    before, (data, same_data) = weights(agent), (gpu_batches(agent), batches(expected))
    ours, theirs = learn(agent, data, UPDATES), learn(expected, same_data, UPDATES)
    assert_together(agent, expected, before)
    assert graphs(agent)
    if case == "dqn":
        (inputs,) = agent.updater._inputs.values()
        assert not inputs.own
        assert ours[-1].priority.is_cuda
        assert isinstance(theirs[-1].priority, np.ndarray)


def test_another_batch_size_is_another_graph() -> None:
    agent, expected = on_gpu("dqn"), on_gpu("dqn", "torch")
    before, data = weights(agent), batches(agent)
    for size in [32] * 15 + [16] * 15 + [32] * 3 + [16] * 3:
        batch = sized(next(data), size)
        agent.learn(batch)
        expected.learn(batch)
    assert_together(agent, expected, before)
    assert len(graphs(agent)) == 2


@pytest.mark.parametrize("case", ["td3", "sac", "svg"])
def test_each_replay_draws_anew(case: str) -> None:
    """With a rate that moves nothing, one batch reports other numbers each time; the draws are those of the CPU."""
    agent = on_gpu(case, learning_rate=1e-30, tau=1e-30)
    batch, reports = next(batches(agent)), []
    for _ in range(WARM_UP * 2 + 8):
        reports.append(agent.learn(batch).metrics)
    assert graphs(agent)
    losses = [report["loss/critic"] for report in reports]
    assert len(set(losses)) > len(losses) - 2
    there = captured(case, learning_rate=1e-30, tau=1e-30)
    expected = [there.learn(batch).metrics["loss/critic"] for _ in losses]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert agent.learning.state == there.learning.state


@pytest.mark.parametrize("engine", ["graph", "torch"])
@pytest.mark.parametrize("case", LEARNING)
def test_a_loss_that_is_not_finite_is_caught_and_changes_nothing(case: str, engine: str) -> None:
    agent = on_gpu(case, engine)
    data = batches(agent)
    learn(agent, data, UPDATES if agent.loop == "off_policy" else 6)
    assert_refused(agent, data)


def test_the_rate_is_read_by_replays() -> None:
    agent = on_gpu("sac", learning_rate="linear_1e-2")
    data = batches(agent)
    learn(agent, data, WARM_UP + 4)
    agent.progress = Progress(0, 1.0)
    before = agent.trainables["actor"].arena.values.clone()
    learn(agent, data, 1)
    assert torch.equal(agent.trainables["actor"].arena.values, before)
    assert graphs(agent)[-1].output.values[0] == 0


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("case", ["sac", "dqn", "ppo gaussian"])
def test_beginning_an_update_waits_for_nothing(case: str) -> None:
    agent = on_gpu(case)
    data = batches(agent)
    learn(agent, data, UPDATES if agent.loop == "off_policy" else 8)
    begun, run = [], agent.updater
    begin = run._launch

    def watched(*args: Any) -> Any:
        try:
            torch.cuda.set_sync_debug_mode("error")
            begun.append(begin(*args))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return begun[-1]

    run._launch = watched
    learn(agent, data, 2)
    assert begun


def test_a_checkpoint_goes_on_as_the_agent_does(tmp_path: Path) -> None:
    agent = on_gpu("sac")
    data = batches(agent)
    learn(agent, data, UPDATES)
    same: Any = pyrl.load(agent.save(tmp_path / "agent"))
    assert same.engine == "graph"
    for _ in range(WARM_UP + 4):
        batch = next(data)
        agent.learn(batch)
        same.learn(batch)
    torch.testing.assert_close(weights(same), weights(agent), atol=1e-4, rtol=1e-3)
    batch = next(data)
    agent.load_state_dict(copy.deepcopy(same.state_dict()))  # another memory of the optimisers: the graphs are dropped
    agent.learn(batch)
    assert not graphs(agent)
    same.learn(batch)
    torch.testing.assert_close(weights(same), weights(agent), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["a2c categorical", "dqn"])
def test_steps_are_counted_on_the_gpu(case: str) -> None:
    agent = on_gpu(case)
    data = batches(agent)
    learn(agent, data, 3)
    agent.load_state_dict({**agent.state_dict(), "optimizer": on_the_host(agent.state_dict()["optimizer"])})
    learn(agent, data, UPDATES)
    step = agent.optimizer.state[agent.arena.values]["step"]
    assert step.is_cuda
    assert int(step) == agent.updates == UPDATES + 3


def on_the_host(tree: Any) -> Any:
    return {k: on_the_host(v) for k, v in tree.items()} if isinstance(tree, dict) else tree.cpu().clone()


@pytest.mark.parametrize("name", OBSERVATION_SPACES)
def test_every_observation_space_is_captured(name: str) -> None:
    space = OBSERVATION_SPACES[name]
    agent: Any = pyrl.make_agent("dqn", space, spaces.Discrete(3), device="cuda")
    space.seed(0)
    one, random = batch_space(space, 4).sample(), np.random.default_rng(0)
    reward, discount = random.normal(size=(2, 4)).astype(np.float32)
    for _ in range(WARM_UP + 3):
        agent.learn(Batch(one, random.integers(0, 3, 4), reward, one, np.zeros(4, bool), discount, np.arange(4)))
    assert len(graphs(agent)) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pictures_are_captured(precision: str) -> None:
    options: dict[str, Any] = dict(n_steps=8, batch_size=16, n_epochs=4, num_envs=2, net_arch=(), precision=precision, device="cuda")
    spaces_ = TwoPictures.observation_space, TwoPictures.action_space
    agent, expected = (pyrl.make_agent("ppo", *spaces_, engine=engine, **options) for engine in ("graph", "torch"))
    before, (data, same_data) = weights(agent), (images(agent), images(expected))
    for _ in range(6):
        agent.learn(next(data))
        expected.learn(next(same_data))
    assert (weights(agent) - weights(expected)).norm() <= 0.05 * (weights(expected) - before).norm()
    assert graphs(agent)


@pytest.mark.parametrize("algo", SEEING)
def test_learns_from_pictures_in_bfloat16(algo: str) -> None:
    run = pyrl.train(algo, TwoPictures, total_steps=2_400, num_envs=4, seed=1, run_dir=False, precision="bfloat16", **SEEING[algo])
    assert (run.agent.device.type, run.agent.engine) == ("cuda", "graph")
    assert pyrl.evaluate(run.agent, TwoPictures, 10).mean > 9.5


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_second_gpu() -> None:
    name, observation_space, action_space, settings = CASES["sac"]
    agent: Any = pyrl.make_agent(name, observation_space, action_space, seed=3, device="cuda:1", **settings)
    expected = on_gpu("sac", "torch")
    before, (data, same_data) = weights(agent).cpu(), (batches(agent), batches(expected))
    learn(agent, data, UPDATES)
    learn(expected, same_data, UPDATES)
    assert (weights(agent).cpu() - weights(expected).cpu()).norm() <= 1e-3 * (weights(expected).cpu() - before).norm()
    assert graphs(agent)
