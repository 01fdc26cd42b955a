"""Prioritized replay (Schaul et al. 2016) for the host, which has none: a buffer, and the algorithms that learn from it.

The host's own `train` runs unchanged. The gradient of a loss that is a mean over the batch is linear in its rows, so an importance weight
comes in as a factor of the gradient at the critic's output, and the squared error's gradient there is the TD error.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from pyrl import buffers
from pyrl.adapters.columns import share
from pyrl.adapters.sb3.replay import ReplayBuffer
from pyrl.errors import DTypeError, SettingError
from pyrl.types import Array


class PrioritizedSamples(NamedTuple):
    """The host's fields, and what prioritized replay adds."""

    observations: Any
    actions: Tensor
    next_observations: Any
    dones: Tensor
    rewards: Tensor
    discounts: Tensor | None
    weights: Tensor  # float32 [B]: importance weights, the largest 1
    indices: Tensor  # int64 [B], on the CPU: for update_priorities


class PrioritizedReplayBuffer(ReplayBuffer):
    """`ReplayBuffer` that draws by priority, for `PrioritizedDQN` and its kin, or a ``train`` of one's own that uses ``weights`` and calls
    `update_priorities`.

    ``replay_buffer_kwargs``, beside those of `ReplayBuffer`: ``alpha``, ``epsilon`` and ``beta`` as `pyrl.buffers.PrioritizedReplayBuffer`
    has them; ``beta_final``, what beta has become at the end of the run (by the `Prioritized` algorithms).
    """

    replay: buffers.PrioritizedReplayBuffer
    _replay_class = buffers.PrioritizedReplayBuffer

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.6,
        beta: float = 0.4,
        beta_final: float = 1.0,
        epsilon: float = 1e-6,
        weights_over: Literal["batch", "buffer"] = "batch",
        **options: Any,
    ) -> None:
        share(self._name, "beta_final", beta_final)
        self._priorities: dict[str, Any] = {"alpha": alpha, "beta": beta, "epsilon": epsilon, "weights_over": weights_over}
        self.beta, self.beta_final = beta, beta_final
        self._unanswered = 0  # draws before the first update of priorities
        super().__init__(*args, **options)

    def _make_replay(self, *args: Any, **options: Any) -> buffers.ReplayBuffer:
        return buffers.PrioritizedReplayBuffer(*args, **options, **self._priorities)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> PrioritizedSamples:  # type: ignore[override]
        """Draw by priority. RuntimeError where the caller never updates priorities: the draws would stay as good as uniform, and their
        weights unused."""
        if self._unanswered == 2:
            raise RuntimeError(
                f"{self._name}: two batches were drawn and no priorities came back. The host's own DQN, TD3, SAC and DDPG know nothing of "
                "them: use PrioritizedDQN and its kin, or call update_priorities(samples.indices, td_error) after each batch"
            )
        self._unanswered += self._unanswered >= 0
        return super().sample(batch_size, env)  # type: ignore[return-value]

    def _samples(self, batch: Any, env: VecNormalize | None) -> PrioritizedSamples:
        weight = batch.weight if batch.weight is not None else self.replay.weight(batch.index)
        own = {"weights": torch.from_numpy(weight).to(self.device), "indices": torch.from_numpy(batch.index)}
        return PrioritizedSamples(**super()._samples(batch, env)._asdict(), **own)

    def update_priorities(self, indices: Array, td_error: Array) -> None:
        """The TD errors [B] or [B, 1] of these samples, of either sign. Those of samples that are overwritten meanwhile are left out."""
        if isinstance(td_error, torch.Tensor):
            td_error = td_error.detach().cpu()
        try:
            error = np.abs(np.asarray(td_error))
        except TypeError:
            raise DTypeError(f"update_priorities: td_error is {td_error!r}, expected an array of numbers") from None
        self.replay.update_priorities(np.asarray(indices), error.reshape(-1))
        self._unanswered = -1


class Prioritized:
    """Mixin before an algorithm of the host: what its `train` draws is weighted, and |TD error| goes back as the priority.

    The priority is the mean over the critics. Logged losses are those without weights. ``replay_buffer_class`` is
    `PrioritizedReplayBuffer` where it is not given.
    """

    replay_buffer: Any
    replay_buffer_kwargs: Any
    gamma: float
    gradient_of_error: float  # of one critic's loss by its output, where the TD error is 1, times the batch size

    def __init__(self, *args: Any, **options: Any) -> None:
        if misplaced := sorted(options.keys() & {"alpha", "beta", "beta_final", "epsilon", "weights_over"}):
            raise SettingError(f"{type(self).__name__}: {misplaced[0]} is an option of the buffer: give it in replay_buffer_kwargs")
        super().__init__(*args, **options)

    def _setup_model(self) -> None:
        wanted = getattr(self, "n_steps", 1)  # which the host hands to its own buffers only
        if wanted > 1 and (self.replay_buffer_kwargs or {}).get("n_steps", wanted) != wanted:
            given = self.replay_buffer_kwargs["n_steps"]
            raise ValueError(f"{type(self).__name__}: n_steps is {wanted}, but replay_buffer_kwargs have {given}, expected the same")
        if wanted > 1:
            self.replay_buffer_kwargs = {"gamma": self.gamma, **(self.replay_buffer_kwargs or {}), "n_steps": wanted}
            self.n_steps = 1  # during the host's own, which warns that it leaves this to the buffer
        if self.replay_buffer_class is None:  # type: ignore[has-type]
            self.replay_buffer_class: Any = PrioritizedReplayBuffer
        if not issubclass(self.replay_buffer_class, PrioritizedReplayBuffer):
            given = self.replay_buffer_class.__name__
            raise TypeError(
                f"{type(self).__name__}: replay_buffer_class is {given}, expected a PrioritizedReplayBuffer of pyrl.adapters.sb3"
            )
        super()._setup_model()  # type: ignore[misc]
        self.n_steps = wanted
        returns = self.replay_buffer.gamma
        if returns is not None and returns != self.gamma:  # type: ignore[attr-defined]
            own = f"gamma is {self.gamma}"  # type: ignore[attr-defined]
            raise ValueError(f"{type(self).__name__}: {own}, but replay_buffer_kwargs sum returns with gamma {returns}, expected the same")

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        buffer = self.replay_buffer
        progress = 1.0 - self._current_progress_remaining  # type: ignore[attr-defined]
        buffer.replay.beta = buffer.beta + (buffer.beta_final - buffer.beta) * min(max(progress, 0.0), 1.0)
        draw, update = buffer.sample, Update(buffer)

        def sample(*args: Any, **options: Any) -> PrioritizedSamples:
            update.samples = draw(*args, **options)
            return update.samples

        hooks = self._watch(update)
        buffer.sample = sample
        try:
            super().train(gradient_steps, batch_size)  # type: ignore[misc]
        finally:
            del buffer.sample
            for hook in hooks:
                hook.remove()

    def _watch(self, update: Update) -> list[Any]:
        """Hooks on the networks."""

        def of_critic(critic: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
            if torch.is_grad_enabled() and inputs[1] is update.samples.actions:  # not the actor's loss
                update.expect(outputs, self.gradient_of_error)

        return [self.critic.register_forward_hook(of_critic)]  # type: ignore[attr-defined]


class Update:
    """One batch on its way through the host's `train`."""

    def __init__(self, buffer: PrioritizedReplayBuffer) -> None:
        self.buffer = buffer
        self.samples: Any = None

    def expect(self, outputs: tuple[Tensor, ...], gradient_of_error: float) -> None:
        """Weight the gradients at these outputs, [B, 1] each; the TD errors are in them."""
        weights, indices = self.samples.weights.view(-1, 1), self.samples.indices
        errors: list[Tensor] = []

        def weighted(gradient: Tensor) -> Tensor:
            errors.append(gradient.abs() * (len(gradient) / gradient_of_error))
            if len(errors) == len(outputs):
                self.buffer.update_priorities(indices, torch.cat(errors, 1).mean(1).cpu())
            return gradient * weights

        for output in outputs:
            output.register_hook(weighted)


class PrioritizedTD3(Prioritized, TD3):
    gradient_of_error = 2.0  # the mean of (Q - y)^2


class PrioritizedDDPG(Prioritized, DDPG):
    gradient_of_error = 2.0


class PrioritizedSAC(Prioritized, SAC):
    gradient_of_error = 1.0  # half the mean of (Q - y)^2


class PrioritizedDQN(Prioritized, DQN):
    """Its Huber loss's gradient is cut off at an error of 1, so the TD error is computed from what the networks gave."""

    def _watch(self, update: Update) -> list[Any]:
        next_values: Any = None

        def of_target(network: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            nonlocal next_values
            next_values = output.max(1, keepdim=True)[0]

        def of_network(network: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if not torch.is_grad_enabled():
                return
            samples = update.samples
            discounts = self.gamma if samples.discounts is None else samples.discounts
            target = samples.rewards + (1 - samples.dones) * discounts * next_values
            td_error = target - output.detach().gather(1, samples.actions.long())
            update.buffer.update_priorities(samples.indices, td_error.view(-1).cpu())
            output.register_hook(lambda gradient: gradient * samples.weights.view(-1, 1))

        return [self.q_net_target.register_forward_hook(of_target), self.q_net.register_forward_hook(of_network)]
