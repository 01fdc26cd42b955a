"""The host's learner connector for generalized advantages (Schulman et al. 2016), its loop over time by `pyrl.ops.gae`."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import numpy as np
from ray.rllib.algorithms.ppo.torch import ppo_torch_learner as host_learner
from ray.rllib.connectors.learner import general_advantage_estimation as host

from pyrl import ops
from pyrl.adapters.columns import share
from pyrl.errors import ShapeError


def compute_value_targets(
    values: np.ndarray, rewards: np.ndarray, terminateds: np.ndarray, truncateds: np.ndarray, gamma: float, lambda_: float
) -> np.ndarray:
    """The host's function of this name: lambda returns, float32 [T], of steps in their order.

    Where ``terminateds`` the future counts nothing; where ``truncateds`` the next value counts, and the sum ends. ShapeError and
    ValueError name the argument.
    """
    columns = {"values": values, "rewards": rewards, "terminateds": terminateds, "truncateds": truncateds}
    for name, column in columns.items():
        if np.ndim(column) != 1 or len(column) != len(rewards):
            raise ShapeError(f"compute_value_targets: {name} have shape {list(np.shape(column))}, expected [T], that of rewards")
    for name, number in (("gamma", gamma), ("lambda_", lambda_)):
        share("compute_value_targets", name, number)
    value, reward = (np.ascontiguousarray(column, np.float32)[:, None] for column in (values, rewards))
    following = np.zeros_like(value)
    following[:-1] = value[1:]
    ends, cuts = (np.ascontiguousarray(column, np.bool_)[:, None] for column in (terminateds, truncateds))
    return ops.gae(reward, value, following, ends, cuts, gamma=gamma, gae_lambda=lambda_)[1][:, 0]


class GeneralAdvantageEstimation(host.GeneralAdvantageEstimation):
    """The host's connector, one loop apart: ``rl_module``'s values, padding and standardisation are its own code."""

    # The host's method finds its loop among the globals of its module: here among these.
    __call__ = FunctionType(
        host.GeneralAdvantageEstimation.__call__.__code__,
        {**vars(host), "compute_value_targets": compute_value_targets},
        "__call__",
        host.GeneralAdvantageEstimation.__call__.__defaults__,
    )
    __call__.__kwdefaults__ = host.GeneralAdvantageEstimation.__call__.__kwdefaults__


class PPOTorchLearner(host_learner.PPOTorchLearner):
    """``config.learners(learner_class=PPOTorchLearner)`` of PPO: the host's learner with our connector in the place of its own."""

    def build(self) -> None:
        super().build()
        pieces: Any = [] if self._learner_connector is None else self._learner_connector.connectors
        for at, piece in enumerate(pieces):
            if type(piece) is host.GeneralAdvantageEstimation:
                own = GeneralAdvantageEstimation(gamma=piece.gamma, lambda_=piece.lambda_)
                own.input_observation_space, own.input_action_space = piece.input_observation_space, piece.input_action_space
                pieces[at] = own
