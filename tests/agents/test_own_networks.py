"""Networks, features, activations and optimisers of a user's own: each works with every agent, or is refused by name when it is made."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import own_networks as own
import pytest
import torch
from agent_envs import NATIVE, OBSERVATION_SPACES
from gymnasium import spaces
from own_networks import ACTION, AGENTS, CONTINUOUS, DISCRETE, OBSERVATION, PIECES, network_of
from torch import Tensor, nn

import pyrl
from pyrl.agents.registry import config_to_json
from pyrl.buffers import RolloutBuffer
from pyrl.errors import CheckpointError, NetworkError, NonFiniteError, SettingError, ShapeError
from pyrl.nets.heads import ActorCritic, QNetwork
from pyrl.own import _CLASSES
from pyrl.types import PolicyInput, Progress

SMALL = {
    "n_steps": 8,
    "batch_size": 8,
    "n_epochs": 2,
    "buffer_size": 64,
    "learning_starts": 8,
    "train_freq": 1,
    "target_update_interval": 2,
}


def make(algo: str, space: spaces.Space = OBSERVATION, **options: Any) -> Any:
    from pyrl.agents.registry import agent_class

    known = agent_class(algo).Config.__dataclass_fields__
    return pyrl.make_agent(algo, space, ACTION[algo], **{**{k: v for k, v in SMALL.items() if k in known}, **options})


def toy(algo: str) -> Callable[[], gym.Env]:
    return lambda: own.Toy(continuous=algo in CONTINUOUS)


def train(agent: Any, steps: int = 16, env: Callable[[], gym.Env] | None = None) -> list[Any]:
    """What `learn` was given."""
    env, given, learn = env or toy(agent.name), [], agent.learn

    def listening(data: Any) -> Any:
        given.append(copy.deepcopy(data))
        return learn(data)

    agent.learn = listening
    if agent.loop != "asynchronous":
        for _ in pyrl.iterate(agent, env, agent.env_steps + steps):
            pass
    else:  # as a worker does
        with pyrl.envs.make(env, 1) as stepper:
            stepper.reset(seed=0)
            for _ in range(steps // agent.config.n_steps):
                buffer = RolloutBuffer(agent.config.n_steps, 1, agent.observation_space, agent.action_space)
                while not buffer.full:
                    choice = agent.choose(PolicyInput(stepper.observation, stepper.first))
                    buffer.add(stepper.step(choice.action), choice.stored)
                agent.learn(buffer.take(stepper.observation))
    del agent.learn
    assert given
    return given


def weights(agent: Any) -> dict[str, Tensor]:
    return {f"{name}.{path}": t.clone() for name, m in agent.modules().items() for path, t in m.state_dict().items()}


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def acts_alike(a: Any, b: Any) -> bool:
    space = copy.deepcopy(a.observation_space)
    space.seed(0)
    a.progress = b.progress = Progress(10**6, 1.0)  # past random actions
    return all(np.array_equal(a.act(o), b.act(o)) for o in (space.sample() for _ in range(5)))


def goes_on_alike(agent: Any, path: Path, **brought: Any) -> None:
    """Saved, loaded, and trained on with the same data, it is the same: the optimiser and all randomness too."""
    data = train(agent)[-1]
    if brought:
        with pytest.raises(CheckpointError, match=f"hand in {next(iter(brought))}="):
            pyrl.load(agent.save(path / "agent"))
    again = pyrl.load(agent.save(path / "agent"), **brought)
    for one in (agent, again):
        one.learn(copy.deepcopy(data))
    assert same(weights(agent), weights(again))
    assert acts_alike(agent, again)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("algo", AGENTS)
def test_networks_are_trained_saved_loaded_and_gone_on_with(algo: str, piece: str, tmp_path: Path) -> None:
    network = network_of(algo, PIECES[piece])
    if (algo, piece) == ("a3c", "batch norm"):
        with pytest.raises(NetworkError, match=r"a3c: the network has the buffer own\.features\.piece\.running_mean"):
            make(algo, network=network)
        return
    agent = make(algo, network=network)
    assert agent.engine == "torch"
    before, learned = (
        weights(agent),
        {n for name, m in agent.modules().items() for n, p in m.named_parameters(prefix=name) if p.requires_grad},
    )
    goes_on_alike(agent, tmp_path, network=network)
    after = weights(agent)
    online = {name for name in learned if not name.startswith("target") and before[name].numel()}
    assert online
    assert all(not torch.equal(before[name], after[name]) for name in online)
    for name in before.keys() - learned:
        if "features.piece" in name and piece == "frozen":
            assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("algo", AGENTS)
@pytest.mark.parametrize("kind", ["features", "features and activation", "activation", "parts"])
def test_parts_of_networks_of_ones_own(algo: str, kind: str, tmp_path: Path) -> None:
    brought: dict[str, Any] = {}
    if "features" in kind:
        brought["features_extractor"] = own.Features
    if "activation" in kind:
        brought["activation"] = lambda: nn.Sequential(nn.Mish(), nn.Dropout(0.1))
    layers: Any = (5,) if kind != "parts" or algo == "dqn" else {"actor": (3,), "critic": (7, 6)}
    goes_on_alike(make(algo, **brought, net_arch=layers), tmp_path, **brought)


@pytest.mark.parametrize("algo", [algo for algo in AGENTS if algo != "dqn"])
def test_layers_by_part(algo: str) -> None:
    agent = make(algo, net_arch={"critic": (7, 6), "actor": (3,)})
    assert agent.engine == ("native" if algo in NATIVE else "torch")
    actor, critic = (
        (agent.network.actor, agent.network.critic) if hasattr(agent, "network") else (agent.actor.network, agent.critic.networks[0])
    )
    widths = [[layer.out_features for layer in part.modules() if isinstance(layer, nn.Linear)][:-1] for part in (actor, critic)]
    assert widths == [[3], [7, 6]]
    for wrong, words in (
        ({"pi": (64,), "vf": (64,)}, "'pi' is 'actor' here, 'vf' is 'critic' here"),
        ({"pi": (64,), "qf": (64,)}, "'qf' is 'critic' here"),
        ({"actor": (64,)}, "of actor and critic"),
        ({"actor": (64,), "critic": (0,)}, r"in \[1, 65536\]"),
        ({"actor": 64, "critic": 64}, "tuple"),
    ):
        with pytest.raises(SettingError, match=words):
            make(algo, net_arch=wrong)


def test_dqn_has_one_part() -> None:
    with pytest.raises(SettingError, match=r"DQNConfig: net_arch is .* expected a tuple"):
        make("dqn", net_arch={"actor": (3,), "critic": (3,)})


class Flat(nn.Module):
    """Every leaf as it comes, side by side."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.space = space
        self.features_dim = 7
        self.layer = nn.LazyLinear(7)

    def forward(self, observation: Any) -> Tensor:
        from pyrl.spaces import leaves, pick

        for path, leaf in leaves(self.space):
            x = pick(observation, path)
            assert x.shape[1:] == leaf.shape
            if isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete):
                assert x.dtype == torch.int64
                assert (x >= torch.as_tensor(leaf.start)).all()
            else:
                assert x.dtype == (torch.float32 if leaf.dtype.kind == "f" else getattr(torch, leaf.dtype.name))
        return self.layer(
            torch.cat([pick(observation, path).reshape(self.rows(observation), -1).float() for path, _ in leaves(self.space)], 1)
        )

    @staticmethod
    def rows(observation: Any) -> int:
        from pyrl.trees import first_leaf

        return len(first_leaf(observation))


@pytest.mark.parametrize("kind", OBSERVATION_SPACES)
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_features_see_the_leaves_of_every_space(algo: str, kind: str, tmp_path: Path) -> None:
    agent = make(algo, OBSERVATION_SPACES[kind], features_extractor=Flat, normalize_observation=True, net_arch=(4,))
    assert agent.engine == "torch"
    again = pyrl.load(agent.save(tmp_path / "agent"), features_extractor=Flat)
    assert acts_alike(agent, again)


@pytest.mark.parametrize("name", _CLASSES["activation"][1:])
def test_activations_of_torch(name: str, tmp_path: Path) -> None:
    """Saved by name, and made again from it; native where the native engine has them."""
    kind = getattr(nn, name)
    agent = make("ppo", activation=kind)
    assert any(type(module) is kind for module in agent.network.modules())
    assert agent.engine == ("native" if name in ("ReLU", "Tanh", "SiLU", "GELU") else "torch")
    assert acts_alike(agent, pyrl.load(agent.save(tmp_path / "agent"), activation=kind))
    assert acts_alike(agent, pyrl.load(tmp_path / "agent"))
    if agent.engine == "torch":
        with pytest.raises(ValueError, match=r"engine is 'native', but the networks are not plain MLPs on the CPU \(network\)"):
            make("ppo", activation=kind, engine="native")


def test_a_callable_that_makes_a_known_activation_is_native() -> None:
    assert make("ppo", activation=lambda: nn.ReLU()).engine == "native"


@pytest.mark.parametrize("algo", AGENTS)
@pytest.mark.parametrize("brought", [{"network"}, {"features_extractor"}, {"activation"}])
def test_the_native_engine_refuses_what_it_does_not_know(algo: str, brought: set[str]) -> None:
    objects = {"network": network_of(algo), "features_extractor": own.Features, "activation": nn.Mish}
    with pytest.raises(ValueError, match=f"{algo}: engine is 'native'"):
        make(algo, engine="native", **{name: objects[name] for name in brought})


class Mine(torch.optim.SGD):
    """An optimiser of the user's own, with a state of its own."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for values in self.param_groups[0]["params"]:
            state = self.state[values]
            state["seen"] = state.get("seen", 0) + 1
            state["before"] = values.clone()
        super().step(closure)


@pytest.mark.parametrize("algo", ["a2c", "dqn", "sac"])
@pytest.mark.parametrize("name", [*_CLASSES["optimizer"][1:], "adam", "rmsprop", "sgd", "mine"])
def test_optimizers(name: str, algo: str, tmp_path: Path) -> None:
    optimizer = Mine if name == "mine" else getattr(torch.optim, name, name)
    agent = make(algo, optimizer=optimizer, learning_rate=0.01, net_arch=(4,))
    before = weights(agent)
    goes_on_alike(agent, tmp_path, **({"optimizer": Mine} if name == "mine" else {}))
    assert not same(before, weights(agent))
    native = name in ("adam", "rmsprop", "Adam", "AdamW")
    assert agent.engine == ("native" if native else "torch")
    if not native:
        with pytest.raises(ValueError, match="engine is 'native', but the optimiser is"):
            make(algo, optimizer=optimizer, engine="native")


def test_an_update_that_fails_leaves_any_optimizer_as_it_was() -> None:
    agent = make("sac", optimizer=torch.optim.NAdam)
    data = train(agent)[-1]
    before, state = weights(agent), copy.deepcopy(agent.state_dict()["optimizer"])
    data.observation["place"][:] = np.nan  # the critic's step is made, or refused; the actor's is refused
    with pytest.raises(NonFiniteError):
        agent.learn(data)
    assert same(before, weights(agent))
    after = agent.state_dict()["optimizer"]
    assert all(torch.equal(torch.as_tensor(after[k][n]), torch.as_tensor(state[k][n])) for k in state for n in state[k])


def test_arguments_of_optimizers() -> None:
    agent = make("ppo", optimizer="adam", optimizer_kwargs={"betas": [0.8, 0.9], "weight_decay": np.float32(0.5)})
    group = agent.step.trainable.optimizer.param_groups[0]
    assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.8, 0.9), 0.5, 1e-5)
    assert agent.engine == "native"
    assert make("a2c", optimizer_kwargs={"alpha": 0.5}).step.trainable.optimizer.param_groups[0]["alpha"] == 0.5
    for wrong, words in (
        ({"optimizer_kwargs": {"beta1": 0.9}}, "adam has no 'beta1' here; did you mean betas"),
        ({"optimizer_kwargs": {"lr": 0.9}}, "its rate is learning_rate"),
        ({"optimizer_kwargs": {"maximize": True}}, "has no 'maximize'"),
        ({"optimizer_kwargs": {"betas": (2.0, 0.9)}}, "adam refuses its arguments"),
        ({"optimizer_kwargs": {"eps": float("nan")}}, "optimizer_kwargs is"),
        ({"optimizer_kwargs": {"eps": "small"}}, "optimizer_kwargs is"),
        ({"optimizer": "rmsprop", "optimizer_kwargs": {"momentum": 0.9}}, "rmsprop has no 'momentum'"),
        ({"optimizer": "nadam"}, "optimizer is 'nadam', expected one of adam, rmsprop, sgd"),
        ({"optimizer": nn.Linear}, "optimizer is"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS cannot step one flat tensor"),
        ({"optimizer": torch.optim.SparseAdam}, "SparseAdam cannot step one flat tensor"),
    ):
        with pytest.raises(SettingError, match=words):
            make("ppo", **wrong)
    with pytest.raises(SettingError, match="a3c: optimizer is 'sgd'"):
        make("a3c", optimizer="sgd")


class Wrong(nn.Module):
    """Gives what it is told to."""

    features_dim: Any = 6

    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.scale, self.output = nn.Parameter(torch.ones(1)), output

    def forward(self, observation: Any, *action: Tensor) -> Any:
        return self.output(self.scale * torch.ones(len(observation["place"]), 6))


RIGHT: dict[str, Callable[[Tensor], Any]] = {  # family -> what it should give
    "features": lambda x: x,
    "actor-critic": lambda x: (x[:, :2], x[:, 0]),
    "q": lambda x: x[:, :2],
    "actor": lambda x: x[:, :2],
    "gaussian": lambda x: (x[:, :2], x[:, :2]),
    "critics": lambda x: x.T[:2],
}


def with_output(family: str, output: Callable[[Tensor], Any]) -> Any:
    """An agent with this wrong part, all others right."""
    if family == "features":
        return make("ppo", features_extractor=lambda space: Wrong(output))
    if family == "actor-critic":
        return make("ppo", network=lambda o, a, c: Wrong(output))
    if family == "q":
        return make("dqn", network=lambda o, a, c: Wrong(output))
    algo = "sac" if family == "gaussian" else "td3"
    actor = Wrong(RIGHT["gaussian" if algo == "sac" else "actor"] if family == "critics" else output)
    return make(algo, network=lambda o, a, c: (actor, Wrong(output if family == "critics" else RIGHT["critics"])))


def bad(right: Callable[[Tensor], Any], how: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """``how`` applied to the first output."""
    return lambda x: (how(right(x)[0]), *right(x)[1:]) if isinstance(right(x), tuple) else how(right(x))


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a column more": (lambda y: torch.cat([y, y[:, :1]], 1), "expected float32"),
    "a row": (lambda y: y[:1], "expected float32"),
    "rank 3": (lambda y: y.unsqueeze(2), "expected float32"),
    "float64": (lambda y: y.double(), "gave float64"),
    "bfloat16": (lambda y: y.bfloat16(), "gave bfloat16"),
    "NumPy": (lambda y: y.detach().numpy(), "gave ndarray"),
    "None": (lambda y: None, "gave NoneType"),
    "NaN": (lambda y: y * float("nan"), "not finite"),
    "raises": (lambda y: 1 / 0, "raised ZeroDivisionError"),
}


@pytest.mark.parametrize("family", RIGHT)
@pytest.mark.parametrize("wrong", OUTPUTS)
def test_wrong_outputs_are_refused_by_name(family: str, wrong: str) -> None:
    how, words = OUTPUTS[wrong]
    with_output(family, RIGHT[family])
    with pytest.raises(NetworkError, match=rf"(features_extractor|network): .*Wrong.*{words}"):
        with_output(family, bad(RIGHT[family], how))
    with pytest.raises(NetworkError, match="without a gradient"):
        with_output(family, lambda x: RIGHT[family](x.detach()))


def test_deterministic_actors_stay_in_their_bounds() -> None:
    with pytest.raises(NetworkError, match="gave actions up to 3, expected"):
        with_output("actor", lambda x: 3 * x[:, :2])
    agent = with_output("actor", RIGHT["actor"])
    with torch.no_grad():
        agent.actor.own.scale.fill_(5.0)
    agent.progress = Progress(1000)
    assert (agent.act(own.Toy(continuous=True).reset(seed=0)[0]) == ACTION["td3"].high).all()


class Modules:
    """Modules that nothing could learn, copy or save whole."""

    @staticmethod
    def listed(module: Any) -> None:
        module.layers = [nn.Linear(2, 2)]

    @staticmethod
    def mapped(module: Any) -> None:
        module._layers = {"a": nn.Linear(2, 2)}

    @staticmethod
    def unregistered(module: Any) -> None:
        module.extra = torch.zeros(2, requires_grad=True)

    @staticmethod
    def sparse(module: Any) -> None:
        module.table = nn.Embedding(3, 2, sparse=True)

    @staticmethod
    def extra_state(module: Any) -> None:
        class Keeps(nn.Linear):
            def get_extra_state(self) -> Any:
                return {"a": 1}

        module.keeps = Keeps(2, 2)

    @staticmethod
    def float64(module: Any) -> None:
        module.double_layer = nn.Linear(2, 2, dtype=torch.float64)

    @staticmethod
    def integers(module: Any) -> None:
        module.counts = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)

    @staticmethod
    def frozen(module: Any) -> None:
        module.requires_grad_(False)


UNFIT = {
    "listed": r"\.layers is a list with modules in it, expected a torch.nn.ModuleList",
    "mapped": r"\._layers is a dict with modules in it",
    "unregistered": r"\.extra holds a tensor with a gradient, expected a torch.nn.Parameter",
    "sparse": r"\.table has sparse gradients",
    "extra_state": r"\.keeps has get_extra_state",
    "float64": r"parameter .*double_layer\.weight is torch.float64, expected torch.float32",
    "integers": r"parameter .*counts is torch.int64, expected torch.float32",
    "frozen": "has no parameter that requires a gradient",
}


@pytest.mark.parametrize("fault", UNFIT)
@pytest.mark.parametrize("algo", AGENTS)
def test_unfit_modules_are_refused_by_name(algo: str, fault: str) -> None:
    def network(o: Any, a: Any, c: Any) -> Any:
        made = network_of(algo)(o, a, c)
        for part in made if isinstance(made, tuple) else (made,):
            getattr(Modules, fault)(part)
        return made

    with pytest.raises(NetworkError, match=UNFIT[fault]):
        make(algo, network=network)


@pytest.mark.parametrize("algo", AGENTS)
def test_wrong_factories_are_refused_by_name(algo: str) -> None:
    for factory, words in (
        (lambda: None, r"is called as \(observation_space, action_space, config\)"),
        (lambda o, a, c: None, "made a NoneType, expected"),
        (lambda o, a, c: torch.relu, "made a builtin_function_or_method, expected"),
    ):
        with pytest.raises(NetworkError, match=f"network: .*{words}"):
            make(algo, network=factory)
    for extractor, words in (
        (lambda: None, r"is called as \(observation_space\)"),
        (lambda space: None, "made a NoneType, expected a torch module"),
        (lambda space: nn.Linear(3, 3), "features_dim is None"),
    ):
        with pytest.raises(NetworkError, match=f"features_extractor: .*{words}"):
            make(algo, features_extractor=extractor)
    for activation, words in (
        (lambda x: x, r"is called as \(\)"),
        (lambda: 1, "made a int"),
        (lambda: nn.GLU(), r"made torch.float32 \[2, 2\]"),
    ):
        with pytest.raises(NetworkError, match=f"activation.*{words}"):
            make(algo, activation=activation)


def test_networks_take_the_place_of_what_they_replace() -> None:
    for options in ({"features_extractor": own.Features}, {"features_extractor": "nature"}, {"dueling": True}):
        with pytest.raises(SettingError, match=f"{next(iter(options))} is .*, but network makes everything"):
            make("dqn", network=network_of("dqn"), **options)
    with pytest.raises(SettingError, match="random: features_extractor"):
        pyrl.make_agent("random", OBSERVATION, ACTION["ppo"], features_extractor=own.Features)


@pytest.mark.parametrize("algo", CONTINUOUS)
def test_actor_and_critics_share_nothing(algo: str) -> None:
    def network(o: Any, a: Any, c: Any) -> Any:
        actor, critics = network_of(algo)(o, a, c)
        critics.features = actor.features
        return actor, critics

    with pytest.raises(NetworkError, match="share the parameter"):
        make(algo, network=network)
    features = own.Features(OBSERVATION)
    with pytest.raises(NetworkError, match="share the parameter"):
        make(algo, features_extractor=lambda space: features)


def built_in(algo: str, observation_space: Any, action_space: Any, config: Any) -> Any:
    """pyrl's own network, as if somebody brought it."""
    shape: Any = (observation_space, config.net_arch, config.activation)
    if algo == "dqn":
        return QNetwork(observation_space, int(action_space.n), *shape[1:], config.dueling)
    if algo not in CONTINUOUS:
        return ActorCritic(observation_space, action_space, *shape[1:], config.log_std_init)
    return own.actor_and_critics(algo, net_arch=config.net_arch)


@pytest.mark.parametrize("algo", AGENTS)
def test_the_built_in_network_brought_learns_the_same_bit_for_bit(algo: str) -> None:
    still: Any = {"target_update_interval": 10**6} if algo == "dqn" else {}  # it follows at environment steps, of which one has none
    brought = make(algo, network=partial(built_in, algo), net_arch=(6, 5), **still)
    ours = make(algo, engine="torch", net_arch=(6, 5), **still)
    data = train(ours, 32)
    for part in data:
        brought.learn(part)
    after = {name.replace(".own.", "."): w for name, w in weights(brought).items() if not name.endswith("spread")}
    expected = weights(ours)
    if algo in DISCRETE[:3]:  # without actions of a Box, the wrapper's own log_std is empty
        assert after.pop("network.log_std").numel() == 0
        expected.pop("network.log_std")
    assert same(after, expected)


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_a_shared_trunk_runs_once_a_loss(algo: str) -> None:
    agent = make(algo, network=network_of(algo))
    data = train(agent)[-1]
    trunk, before = agent.network.own, agent.updates
    trunk.calls = 0
    agent.learn(data)
    assert trunk.calls == (agent.updates - before) + 1  # and once for the values of the rollout


def test_policy_and_value_are_used_where_the_class_has_them() -> None:
    class Split(own.SharedTrunk):
        def policy(self, observation: Any) -> Tensor:  # type: ignore[override]
            self.asked.append("policy")
            return self.forward(observation)[0]

        def forward(self, observation: Any) -> tuple[Tensor, Tensor]:
            features = self.features(observation)
            return self.head(features), self.value_head(features).squeeze(1)

        def __init__(self, features: nn.Module, space: Any) -> None:
            nn.Module.__init__(self)
            self.features, self.asked = features, []
            self.head, self.value_head = nn.Linear(6, 2), nn.Linear(6, 1)

    agent = make("ppo", network=lambda o, a, c: Split(own.Features(o), a))
    agent.network.own.asked.clear()
    agent.act(own.Toy().reset(seed=0)[0])
    assert agent.network.own.asked == ["policy"]


@pytest.mark.parametrize("brings", [True, False])
def test_log_std_of_continuous_actions(brings: bool, tmp_path: Path) -> None:
    def network(o: Any, a: Any, c: Any) -> Any:
        made = own.shared_trunk(o, a, c)
        if brings:
            made.log_std = nn.Parameter(torch.full((2,), -1.5))
        return made

    agent = pyrl.make_agent("ppo", OBSERVATION, ACTION["sac"], network=network, n_steps=8, batch_size=8, log_std_init=-0.5)
    assert agent.network.log_std.tolist() == ([-1.5, -1.5] if brings else [-0.5, -0.5])
    train(agent, env=lambda: own.Toy(continuous=True))
    assert agent.network.log_std.tolist() not in ([-1.5, -1.5], [-0.5, -0.5])
    assert acts_alike(agent, pyrl.load(agent.save(tmp_path / "agent"), network=network))


# Modes and buffers ---------------------------------------------------------------------------------------------------


def moments(network: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in network.buffers()]


@pytest.mark.parametrize("algo", [algo for algo in AGENTS if algo != "a3c"])
def test_batch_norm_as_in_stable_baselines(algo: str) -> None:
    """Its moments move in updates alone, as acting and targets are in evaluation mode; targets take them over when they follow."""
    agent = make(algo, network=network_of(algo, PIECES["batch norm"]))
    data, name = train(agent)[-1], "q_network" if algo == "dqn" else "network" if algo in ("ppo", "a2c", "impala", "appo") else "critic"
    network = agent.modules()[name]
    before = moments(network)
    agent.act(own.Toy().reset(seed=0)[0])
    assert all(torch.equal(a, b) for a, b in zip(before, moments(network)))
    assert not any(module.training for whole in agent.modules().values() for module in whole.modules())
    agent.progress, agent.updates = Progress(agent.env_steps + 100), 1  # td3 moves its targets at the second update
    agent.learn(data)
    assert not any(torch.equal(a, b) for a, b in zip(before, moments(network)))
    for target, online in agent.modules().items():
        if target.startswith("target"):
            source = agent.modules()["q_network" if algo == "dqn" else target.removeprefix("target_")]
            assert all(torch.equal(a, b) for a, b in zip(moments(online), moments(source)))


def test_an_update_that_fails_leaves_the_moments_as_they_were() -> None:
    agent = make("ppo", network=network_of("ppo", PIECES["batch norm"]))
    data, before = train(agent)[-1], moments(agent.network)
    data.reward[:] = np.nan
    with pytest.raises(NonFiniteError):
        agent.learn(data)
    assert all(torch.equal(a, b) for a, b in zip(before, moments(agent.network)))


def test_compiled_updates_refuse_buffers() -> None:
    with pytest.raises(ValueError, match=r"engine is 'compile', but the networks have buffers \(own.features.piece.running_mean\)"):
        make("dqn", network=network_of("dqn", PIECES["batch norm"]), engine="compile")


def test_dropout_repeats_with_the_seed_and_leaves_torch_alone() -> None:
    def trained() -> dict[str, Tensor]:
        agent = make("ppo", network=network_of("ppo", PIECES["dropout"]), seed=5)
        train(agent)
        return weights(agent)

    torch.manual_seed(1)
    expected, first = torch.rand(1), trained()
    torch.manual_seed(1)
    assert same(first, trained())
    assert torch.equal(torch.rand(1), expected)


# Saving and going on -------------------------------------------------------------------------------------------------


def test_nothing_is_imported_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_of_networks.py").write_text("raise SystemExit('imported')\ndef factory(o, a, c): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def factory(*arguments: Any) -> Any:
        return network_of("ppo")(*arguments)

    factory.__module__, factory.__qualname__ = "trap_of_networks", "factory"
    agent = make("ppo", network=factory)
    path = agent.save(tmp_path / "agent")
    assert config_to_json(agent.config)["network"] == "trap_of_networks:factory"
    with pytest.raises(CheckpointError, match="made with the network trap_of_networks:factory"):
        pyrl.load(path)
    with pytest.raises(SettingError, match="network is 'trap_of_networks:factory', a name; expected the object itself"):
        make("ppo", network="trap_of_networks:factory")
    assert "trap_of_networks" not in sys.modules
    assert acts_alike(agent, pyrl.load(path, network=network_of("ppo")))  # by any other name
    with pytest.raises(CheckpointError, match="network"):
        pyrl.load(path, network=network_of("ppo", lambda: nn.Linear(6, 6)))
    with pytest.raises(CheckpointError, match=r"activation is .*Mish.*, but the agent was made with 'tanh'; leave it out"):
        pyrl.load(path, network=factory, activation=nn.Mish)


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_runs_are_gone_on_with(algo: str, tmp_path: Path) -> None:
    network = network_of(algo)
    small: Any = {"batch_size": 8, "learning_starts": 8} if algo == "dqn" else {"batch_size": 8, "n_steps": 8}
    run = pyrl.train(algo, own.Toy, total_steps=64, run_dir=tmp_path / "run", network=network, optimizer="sgd", **small)
    with pytest.raises(SettingError, match=r"the run in .* was made with the network .*hand in network="):
        pyrl.train(algo, own.Toy, resume=run.dir, total_steps=128)
    more = pyrl.train(algo, own.Toy, resume=run.dir, total_steps=128, network=network)
    assert more.agent.env_steps >= 128
    again = pyrl.train(algo, own.Toy, resume=run.dir, total_steps=192, network=lambda *a: network(*a))  # noted in config.json
    assert again.agent.env_steps >= 192
    with pytest.raises(SettingError, match=r"features_extractor is .*, but network makes everything"):
        pyrl.train(algo, own.Toy, resume=run.dir, total_steps=256, network=network, features_extractor=own.Features)
    warm = pyrl.train(algo, own.Toy, agent=again.agent, total_steps=64, run_dir=tmp_path / "warm")
    assert pyrl.evaluate(pyrl.load(warm.dir, network=network), own.Toy, episodes=2).lengths.tolist() == [10, 10]


def test_workers_are_sent_the_network(tmp_path: Path) -> None:
    run = pyrl.train("a3c", own.Toy, total_steps=60, num_envs=1, network=own.shared_trunk, run_dir=tmp_path / "run")
    assert run.agent.updates > 0
    assert acts_alike(run.agent, pyrl.load(run.dir, network=own.shared_trunk))
    with pytest.raises(ValueError, match="a3c: network cannot be sent to another process"):
        pyrl.train("a3c", own.Toy, total_steps=200, network=lambda *a: own.shared_trunk(*a), run_dir=False)


# Learning ------------------------------------------------------------------------------------------------------------

PPO = dict(n_steps=64, num_envs=4, batch_size=64, n_epochs=6, learning_rate=4e-3)
DQN = dict(
    learning_starts=100,
    batch_size=32,
    learning_rate=5e-3,
    train_freq=2,
    target_update_interval=50,
    exploration_fraction=0.5,
    gamma=0.1,
)
TASKS: dict[str, tuple[str, Any, int, dict[str, Any], dict[str, Any], float]] = {
    # algorithm, environment, steps, settings, what is one's own, the score that the built-in network reaches as well
    "a CNN for a dict": ("ppo", own.Pictures, 3_000, PPO, {"features_extractor": own.PictureFeatures}, 9.5),
    "a shared trunk": ("ppo", own.Toy, 3_000, PPO, {"network": own.shared_trunk}, 8.5),
    "an embedding": ("dqn", own.Corridor, 1_000, DQN, {"network": own.EmbeddedQ}, 11.5),
}


@pytest.mark.parametrize("task", TASKS)
def test_it_learns_as_the_built_in_does(task: str, tmp_path: Path) -> None:
    algo, env, steps, settings, brought, score = TASKS[task]
    for objects in (brought, {}):
        run = pyrl.train(algo, env, total_steps=steps, run_dir=False, **settings, **objects)
        assert pyrl.evaluate(run.agent, env, episodes=20).mean >= score
        again = pyrl.load(run.agent.save(tmp_path / f"agent{len(objects)}"), **objects)
        assert acts_alike(run.agent, again)


def test_changed_shapes_are_still_refused() -> None:
    agent = make("ppo", network=network_of("ppo"))
    agent.network.own.policy = nn.Linear(32, 3)
    with pytest.raises((NetworkError, ShapeError)):
        agent.act(own.Toy().reset(seed=0)[0])
