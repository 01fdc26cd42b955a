"""A rollout that another policy acted in, V-trace of it by its definition, and what impala and appo have to learn of such rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from agent_envs import CutOrEnd, TwoStates
from gymnasium import spaces

import pyrl
from pyrl.types import Rollout

OBSERVATION, ACTION = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4)
T, N = 7, 3


def rollout(mask: bool = False) -> Rollout:
    random = np.random.default_rng(1)
    terminated, truncated = random.random((2, T, N)) < 0.2
    step, env = np.nonzero(truncated)
    observation, final = (random.normal(size=(*n, 3)).astype(np.float32) for n in ((T + 1, N), (len(step),)))
    action = random.integers(0, 4, (T, N))
    allowed = random.random((T, N, 4)) < 0.6
    np.put_along_axis(allowed, action[..., None], True, axis=2)
    return Rollout(
        observation, action, random.normal(size=(T, N)).astype(np.float32), terminated, truncated, random.random((T, N)) < 0.9,
        np.zeros((T + 1, N), bool), step, env, final, {"log_prob": random.normal(-1.2, 0.7, (T, N)).astype(np.float32)},
        allowed if mask else None,
    )  # fmt: skip


def values(agent: Any, observation: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return agent.network.value(torch.from_numpy(observation)).numpy().astype(float)


def log_prob(agent: Any, data: Rollout) -> np.ndarray:
    """log pi(a|o) [T, N], by the definition of softmax."""
    with torch.no_grad():
        logits = agent.network.policy(torch.from_numpy(data.observation[:T].reshape(-1, 3))).numpy().astype(float).reshape(T, N, 4)
    if data.action_mask is not None:
        logits[~data.action_mask] = -np.inf
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.log(np.take_along_axis(p, data.action[..., None], 2)[..., 0])


def vtrace(agent: Any, data: Rollout, gamma: float, lambda_: float, rho_bar: float, c_bar: float) -> tuple[np.ndarray, np.ndarray]:
    """Equation 1 as a sum, for every step on its own: v_t = V_t + sum_k gamma^k (prod c) delta_(t+k), up to the end of its part."""
    V, final = values(agent, data.observation.reshape(-1, 3)).reshape(T + 1, N), np.zeros((T, N))
    final[data.final_step, data.final_env] = values(agent, data.final_observation)
    ratio = np.exp(log_prob(agent, data) - data.extra["log_prob"])
    rho, c = np.minimum(rho_bar, ratio), lambda_ * np.minimum(c_bar, ratio)
    following = np.where(data.terminated, 0.0, np.where(data.truncated, final, V[1:]))  # V(o_(t+1)), 0 after the end
    delta = rho * (data.reward + gamma * following - V[:T])
    v, A = np.zeros((T, N)), np.zeros((T, N))
    for n in range(N):
        for t in np.flatnonzero(data.valid[:, n]):
            weight, k = 1.0, t
            while True:
                v[t, n] += weight * delta[k, n]
                ends = data.terminated[k, n] or data.truncated[k, n] or k + 1 == T or not data.valid[k + 1, n]
                if ends:
                    break
                weight *= gamma * c[k, n]
                k += 1
            v[t, n] += V[t, n]
        for t in np.flatnonzero(data.valid[:, n]):
            goes_on = not (data.terminated[t, n] or data.truncated[t, n]) and t + 1 < T and data.valid[t + 1, n]
            A[t, n] = rho[t, n] * (data.reward[t, n] + gamma * (v[t + 1, n] if goes_on else following[t, n]) - V[t, n])
    return A, v


def assert_learns_from_an_older_policy(algo: str, steps: int, options: dict[str, Any]) -> None:
    """The actor gets the weights of now only after every eighth update."""
    agent: Any = pyrl.make_agent(algo, spaces.Discrete(2), spaces.Discrete(2), num_envs=4, **options)
    old = pyrl.make_agent(algo, spaces.Discrete(2), spaces.Discrete(2), num_envs=4, **options)
    loop = pyrl.iterate(old, TwoStates, total_steps=steps)
    old.learn = agent.learn  # type: ignore[method-assign]
    for i, _ in enumerate(loop):
        if i % 8 == 0:
            old.acting.load_weights(agent.weights())
    assert pyrl.evaluate(agent, TwoStates, episodes=10).mean == 10.0


def assert_tells_truncation_from_termination(algo: str, steps: int, options: dict[str, Any]) -> None:
    agent: Any = pyrl.make_agent(algo, CutOrEnd.observation_space, CutOrEnd.action_space, num_envs=4, **options)
    for _ in pyrl.iterate(agent, CutOrEnd, total_steps=steps):
        pass
    assert agent.act(0) == 1
    np.testing.assert_allclose(agent.network.value(torch.tensor([0, 1])).detach(), [9.0, 10.0], rtol=0.2)
