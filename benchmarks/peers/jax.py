"""JAX: GAE as a compiled scan, sampling by `jax.random`; flashbax: the item buffer. Results stay JAX arrays."""

import _data
import flashbax
import jax
import jax.numpy as jnp
import numpy as np
from _timing import contender, keep_one


def blocking(function, *arguments):
    return lambda: jax.block_until_ready(function(*arguments))


@contender("returns.gae", "jax scan")
def gae(T, N):
    rollout = _data.rollout(T, N)
    reward, value, next_value = map(jnp.asarray, rollout[:3])
    discount = 0.99 * (1.0 - jnp.asarray(rollout.terminated, jnp.float32))

    @jax.jit
    def advantages(reward, value, next_value, discount):
        def step(carry, row):
            reward, value, next_value, discount = row
            carry = reward + discount * next_value - value + discount * 0.95 * carry
            return carry, carry

        advantage = jax.lax.scan(step, jnp.zeros(N), (reward, value, next_value, discount), reverse=True)[1]
        return advantage, advantage + value

    call = blocking(advantages, reward, value, next_value, discount)
    return call, lambda: float(jnp.abs(call()[0]).mean())


def drawing(function, *arguments):
    """Calls with a key of its own each time; keys are split beforehand, in blocks."""
    compiled, keys = jax.jit(function), iter(())
    root = jax.random.PRNGKey(0)

    def call():
        nonlocal keys, root
        key = next(keys, None)
        if key is None:
            root, block = jax.random.split(root)
            keys = iter(np.asarray(jax.random.split(block, 4096)))
            key = next(keys)
        return jax.block_until_ready(compiled(*arguments, key))

    return call


@contender("sampling.categorical", "jax jit")
def categorical(batch, count):
    def draw(logits, key):
        action = jax.random.categorical(key, logits)
        return action, jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]

    return drawing(draw, jnp.asarray(_data.logits(batch, count)))


@contender("sampling.gaussian", "jax jit")
def gaussian(batch, size):
    mean, log_std = map(jnp.asarray, _data.gaussians(batch, size))

    def draw(mean, log_std, key):
        noise = jax.random.normal(key, mean.shape)
        log_prob = -(0.5 * noise**2 + log_std + 0.5 * jnp.log(2 * jnp.pi)).sum(-1)
        return mean + jnp.exp(log_std) * noise, log_prob

    return drawing(draw, mean, log_std)


@keep_one
def full_state(kind):
    capacity = _data.KINDS[kind].capacity
    buffer = flashbax.make_item_buffer(max_length=capacity, min_length=1, sample_batch_size=1)
    observation = _data.observations(kind, capacity)
    rows = {
        "observation": jnp.asarray(observation), "action": jnp.asarray(_data.actions(kind, capacity)),
        "reward": jnp.asarray(_data.rewards(capacity)),
        "next_observation": jnp.asarray(np.roll(observation, -1, axis=0)),
        "done": jnp.asarray(np.arange(capacity) % _data.EPISODE == _data.EPISODE - 1),
    }  # fmt: skip
    state = buffer.init(jax.tree.map(lambda column: column[0], rows))
    experience = jax.tree.map(lambda held, column: column.reshape(held.shape), state.experience, rows)
    return state.replace(experience=experience, is_full=jnp.array(True))


@contender("replay.sample", "flashbax")
def sample(kind, batch):
    state = full_state(kind)
    buffer = flashbax.make_item_buffer(max_length=_data.KINDS[kind].capacity, min_length=1, sample_batch_size=batch)
    return drawing(buffer.sample, state)
