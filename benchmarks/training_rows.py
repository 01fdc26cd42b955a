"""End-to-end rows of bench_adapters.py: a short training as each host's scripts write it, networks and environments included.

Of each row the host's call and ours are the same program, but for the buffer or the returns. A call trains from the start with the next
seed, so that both have the same seeds in the same rounds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Call = Callable[[], object]
GAMMA, LAMBDA = 0.99, 0.95


def both(train: Callable[..., Any], host: Any, ours: Any) -> tuple[Call, Call]:
    """``train(part, seed)`` with the host's part and with ours."""

    def calls(part: Any) -> Call:
        seeds = count()
        return lambda: train(part, next(seeds))

    return calls(host), calls(ours)


def seeded(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the hosts' buffers draw from it)
    torch.manual_seed(seed)


def perceptron(inputs: int, hidden: tuple[int, ...], outputs: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    sizes = (inputs, *hidden)
    layers = [layer for pair in zip(sizes, sizes[1:]) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def minimize(optimizer: torch.optim.Optimizer, loss: torch.Tensor, clipped: Any = ()) -> None:
    optimizer.zero_grad()
    loss.backward()
    if clipped:
        nn.utils.clip_grad_norm_(clipped, 0.5)
    optimizer.step()


# -- CleanRL --------------------------------------------------------------------------------------------------------------


def cartpoles(num_envs: int) -> Any:
    import gymnasium as gym

    same_step = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    return gym.make_vec("CartPole-v1", num_envs, vectorization_mode="sync", vector_kwargs=same_step)


def cleanrl_dqn_loop(steps: int, train_frequency: int, buffer: Any, seed: int) -> None:
    """The loop of CleanRL's dqn.py with its network, batch and buffer sizes; learning starts at 500 steps."""
    seeded(seed)
    envs = cartpoles(1)
    q_network, target_network = (perceptron(4, (120, 84), 2) for _ in range(2))
    target_network.load_state_dict(q_network.state_dict())
    optimizer = torch.optim.Adam(q_network.parameters(), lr=2.5e-4)
    rb = buffer(10_000, envs.single_observation_space, envs.single_action_space, "cpu", handle_timeout_termination=False)
    obs, _ = envs.reset(seed=seed)
    for step in range(steps):
        epsilon = max(1 - 0.95 * step / (0.5 * steps), 0.05)
        if random.random() < epsilon:
            actions = np.array([envs.single_action_space.sample()])
        else:
            actions = torch.argmax(q_network(torch.Tensor(obs)), dim=1).numpy()
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        real_next_obs = next_obs.copy()
        for idx in np.flatnonzero(terminations | truncations):
            real_next_obs[idx] = infos["final_obs"][idx]
        rb.add(obs, real_next_obs, actions, rewards, terminations, infos)
        obs = next_obs
        if step >= 500 and step % train_frequency == 0:
            data = rb.sample(128)
            with torch.no_grad():
                target_max, _ = target_network(data.next_observations).max(dim=1)
                td_target = data.rewards.flatten() + GAMMA * target_max * (1 - data.dones.flatten())
            old_val = q_network(data.observations).gather(1, data.actions).squeeze()
            minimize(optimizer, nn.functional.mse_loss(td_target, old_val))
        if step % 500 == 0:
            target_network.load_state_dict(q_network.state_dict())


def cleanrl_dqn(steps: int, train_frequency: int) -> tuple[Call, Call]:
    from cleanrl_utils.buffers import ReplayBuffer as Host

    from pyrl.adapters.cleanrl import ReplayBuffer as Ours

    return both(partial(cleanrl_dqn_loop, steps, train_frequency), Host, Ours)


def scripts_gae(rewards: Any, values: Any, dones: Any, next_value: Any, next_done: Any, gamma: float, lam: float) -> tuple[Any, Any]:
    """What CleanRL's scripts write out."""
    steps = len(rewards)
    advantages, carry = torch.zeros_like(rewards), 0
    for t in reversed(range(steps)):
        alive = 1.0 - (next_done if t == steps - 1 else dones[t + 1])
        following = next_value if t == steps - 1 else values[t + 1]
        carry = rewards[t] + gamma * following * alive - values[t] + gamma * lam * alive * carry
        advantages[t] = carry
    return advantages, advantages + values


def cleanrl_ppo_loop(updates: int, gae: Any, seed: int) -> None:
    """The loop of CleanRL's ppo.py with its settings: 4 environments, 128 steps, 4 epochs of 4 minibatches."""
    from torch.distributions import Categorical

    seeded(seed)
    T, N = 128, 4
    envs = cartpoles(N)
    actor, critic = (perceptron(4, (64, 64), outputs, nn.Tanh) for outputs in (2, 1))
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2.5e-4, eps=1e-5)
    obs = torch.zeros(T, N, 4)
    actions, logprobs, rewards, dones, values = (torch.zeros(T, N) for _ in range(5))
    next_obs, next_done = torch.Tensor(envs.reset(seed=seed)[0]), torch.zeros(N)
    for _ in range(updates):
        for step in range(T):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                policy = Categorical(logits=actor(next_obs))
                action = policy.sample()
                values[step], logprobs[step] = critic(next_obs).flatten(), policy.log_prob(action)
            actions[step] = action
            observation, reward, terminations, truncations, _ = envs.step(action.numpy())
            rewards[step] = torch.tensor(reward)
            next_obs, next_done = torch.Tensor(observation), torch.Tensor(terminations | truncations)
        with torch.no_grad():
            advantages, returns = gae(rewards, values, dones, critic(next_obs).reshape(1, -1), next_done, GAMMA, LAMBDA)
        flat = [column.flatten(0, 1) for column in (obs, actions, logprobs, advantages, returns)]
        for _ in range(4):
            for index in torch.randperm(T * N).split(T * N // 4):
                b_obs, b_actions, b_logprobs, weight, b_returns = (column[index] for column in flat)
                policy = Categorical(logits=actor(b_obs))
                ratio = (policy.log_prob(b_actions) - b_logprobs).exp()
                weight = (weight - weight.mean()) / (weight.std() + 1e-8)
                pg_loss = torch.max(-weight * ratio, -weight * ratio.clamp(0.8, 1.2)).mean()
                v_loss = 0.5 * (critic(b_obs).flatten() - b_returns).pow(2).mean()
                minimize(optimizer, pg_loss - 0.01 * policy.entropy().mean() + 0.5 * v_loss, parameters)


def cleanrl_ppo(updates: int) -> tuple[Call, Call]:
    from pyrl.adapters.cleanrl import gae

    return both(partial(cleanrl_ppo_loop, updates), scripts_gae, gae)


# -- cpprb ----------------------------------------------------------------------------------------------------------------


def cpprb_example() -> tuple[Call, Call]:
    """examples/cpprb_unchanged.py as it stands, and with the import from cpprb: a learner in NumPy, prioritized 3-step replay."""
    whole = (Path(__file__).parents[1] / "examples" / "cpprb_unchanged.py").read_text()
    line = "\nfrom pyrl.adapters.cpprb import PrioritizedReplayBuffer\n"
    assert whole.count(line) == whole.count("\nprint(") == 1, "examples/cpprb_unchanged.py has changed"
    ours = whole.split("\nprint(")[0]  # what it says of one seed is not for others
    host = ours.replace(line, line.replace("pyrl.adapters.", ""))

    def run(program: Any, seed: int) -> None:
        seeded(seed)
        exec(program, {"__name__": "__main__"})

    return both(run, *(compile(text, "cpprb_unchanged.py", "exec") for text in (host, ours)))


def cpprb_dqn_loop(steps: int, module: Any, seed: int) -> None:
    """One update of 32 a step, prioritized, networks of 64 and 64."""
    import gymnasium as gym

    seeded(seed)
    env, rng = gym.make("CartPole-v1"), np.random.default_rng(seed)
    q_network, target_network = (perceptron(4, (64, 64), 2) for _ in range(2))
    target_network.load_state_dict(q_network.state_dict())
    optimizer = torch.optim.Adam(q_network.parameters(), lr=1e-3)
    env_dict = {"obs": {"shape": 4}, "act": {"dtype": np.int64}, "rew": {}, "next_obs": {"shape": 4}, "done": {}}
    rb = module.PrioritizedReplayBuffer(10_000, env_dict, alpha=0.6)
    obs, _ = env.reset(seed=seed)
    for step in range(steps):
        explores = rng.random() < max(1 - step / (0.5 * steps), 0.05)
        act = int(rng.integers(2) if explores else q_network(torch.from_numpy(obs)).argmax())
        next_obs, rew, terminated, truncated, _ = env.step(act)
        rb.add(obs=obs, act=act, rew=rew, next_obs=next_obs, done=terminated)
        obs = next_obs
        if terminated or truncated:
            rb.on_episode_end()
            obs, _ = env.reset()
        if step < 100:
            continue
        sample = rb.sample(32, beta=0.4)
        batch = {name: torch.from_numpy(sample[name]) for name in ("obs", "act", "rew", "next_obs", "done", "weights")}
        with torch.no_grad():
            target = batch["rew"] + GAMMA * (1 - batch["done"]) * target_network(batch["next_obs"]).max(1, keepdim=True)[0]
        error = target - q_network(batch["obs"]).gather(1, batch["act"])
        minimize(optimizer, (batch["weights"][:, None] * error.square()).mean())
        rb.update_priorities(sample["indexes"], error.detach().abs().numpy().ravel())
        if step % 500 == 0:
            target_network.load_state_dict(q_network.state_dict())


def cpprb_dqn(steps: int) -> tuple[Call, Call]:
    import cpprb as host

    from pyrl.adapters import cpprb as ours

    return both(partial(cpprb_dqn_loop, steps), host, ours)


# -- TorchRL --------------------------------------------------------------------------------------------------------------


def torchrl_dqn_loop(steps: int, batch: int, make: Callable[[], dict[str, Any]], seed: int) -> None:
    """TorchRL's own environment, collector, loss and target update; 100 frames and ten updates in turns."""
    from tensordict.nn import TensorDictSequential
    from torchrl.collectors import Collector
    from torchrl.data import TensorDictReplayBuffer
    from torchrl.envs import GymEnv
    from torchrl.modules import EGreedyModule, QValueActor
    from torchrl.objectives import DQNLoss, SoftUpdate

    seeded(seed)
    env = GymEnv("CartPole-v1", device="cpu")
    env.set_seed(seed)
    actor = QValueActor(perceptron(4, (120, 84), 2), in_keys=["observation"], spec=env.action_spec)
    greedy = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.05, annealing_num_steps=steps // 2)
    collector = Collector(env, TensorDictSequential(actor, greedy), frames_per_batch=100, total_frames=steps)
    buffer = TensorDictReplayBuffer(batch_size=batch, **make())
    loss = DQNLoss(actor, delay_value=True, action_space=env.action_spec)
    loss.make_value_estimator(gamma=GAMMA)
    updater, optimizer = SoftUpdate(loss, eps=0.995), torch.optim.Adam(loss.parameters(), lr=2.5e-4)
    for data in collector:
        buffer.extend(data.reshape(-1))
        greedy.step(data.numel())
        for _ in range(10):
            minimize(optimizer, loss(buffer.sample())["loss"])
            updater.step()
    collector.shutdown()


def torchrl_dqn(steps: int, batch: int) -> tuple[Call, Call]:
    from torchrl.data import LazyTensorStorage
    from torchrl.data.replay_buffers.samplers import RandomSampler

    from pyrl.adapters import torchrl as ours

    def host_parts() -> dict[str, Any]:
        return {"storage": LazyTensorStorage(10_000), "sampler": RandomSampler()}

    def own_parts() -> dict[str, Any]:
        return {"storage": ours.RecordStorage(10_000), "sampler": ours.RandomSampler()}

    return both(partial(torchrl_dqn_loop, steps, batch), host_parts, own_parts)


def torchrl_ppo_loop(updates: int, make: Callable[[Any], Callable[[Any], Any]], seed: int) -> None:
    """TorchRL's environment, collector, loss and minibatches: 512 frames, 4 epochs of 8 minibatches."""
    from tensordict.nn import TensorDictModule
    from torch.distributions import Categorical
    from torchrl.collectors import Collector
    from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
    from torchrl.envs import GymEnv
    from torchrl.modules import ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss

    seeded(seed)
    env = GymEnv("CartPole-v1", device="cpu", categorical_action_encoding=True)
    env.set_seed(seed)
    network = TensorDictModule(perceptron(4, (64, 64), 2, nn.Tanh), in_keys=["observation"], out_keys=["logits"])
    actor = ProbabilisticActor(network, in_keys=["logits"], distribution_class=Categorical, return_log_prob=True, spec=env.action_spec)
    critic = ValueOperator(perceptron(4, (64, 64), 1, nn.Tanh), in_keys=["observation"])
    loss, advantage = ClipPPOLoss(actor, critic, normalize_advantage=True), make(critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=2.5e-4)
    sampler = SamplerWithoutReplacement()
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(512), sampler=sampler, batch_size=64)
    collector = Collector(env, actor, frames_per_batch=512, total_frames=512 * updates)
    for data in collector:
        advantage(data)
        buffer.extend(data.reshape(-1))
        for _ in range(4):
            for batch in buffer:
                found = loss(batch)
                minimize(optimizer, found["loss_objective"] + found["loss_critic"] + found["loss_entropy"])
    collector.shutdown()


def torchrl_ppo(updates: int) -> tuple[Call, Call]:
    """The host's own estimator module, by its defaults, and its lines with our function: the critic's values are the same work in both."""
    from torchrl.objectives.value import GAE

    from pyrl.adapters.torchrl import generalized_advantage_estimate

    def own(critic: Any) -> Callable[[Any], Any]:
        @torch.no_grad()
        def estimate(data: Any) -> None:
            critic(data)
            after = data["next"]
            columns = data["state_value"], critic(after)["state_value"], after["reward"], after["done"], after["terminated"]
            data["advantage"], data["value_target"] = generalized_advantage_estimate(GAMMA, LAMBDA, *columns)

        return estimate

    return both(partial(torchrl_ppo_loop, updates), lambda critic: GAE(gamma=GAMMA, lmbda=LAMBDA, value_network=critic), own)


# -- Tianshou -------------------------------------------------------------------------------------------------------------


def tianshou_dqn(name: str, steps: int) -> tuple[Call, Call]:
    """The run of the learning curves, shortened: buffer and returns are ours together."""
    from learning_adapters import tianshou_curve

    return both(partial(tianshou_curve, name, steps), False, True)
