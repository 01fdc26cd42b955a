"""An environment in Python, compiled by Numba: it steps inside the same native loop as one in C (pip install 'pyrl[numba]').

A target on a line is to be followed: the action pushes, and the target jumps at random.
"""

import numpy as np
from gymnasium.spaces import Box
from numba import carray, cfunc, types

import pyrl

# The signatures of pyrl_reset_function and pyrl_step_function in pyrl_env.h.
NUMBERS = types.CPointer(types.float64)
RESET = types.int32(types.voidptr, NUMBERS, NUMBERS, types.voidptr)
STEP = types.int32(types.voidptr, NUMBERS, NUMBERS, types.voidptr, types.voidptr, NUMBERS, types.CPointer(types.uint8))


@cfunc(RESET)
def reset(state, parameters, uniform, observation):
    s, shown = carray(state, 3, np.float64), carray(observation, 3, np.float32)
    s[0], s[1], s[2] = 0.0, 0.0, 2.0 * uniform[0] - 1.0  # position, speed, target
    shown[:] = s
    return 0


@cfunc(STEP)
def step(state, parameters, uniform, action, observation, reward, ended):
    s, shown, push = carray(state, 3, np.float64), carray(observation, 3, np.float32), carray(action, 1, np.float32)
    s[1] += 0.1 * push[0] - parameters[0] * s[1]
    s[0] += 0.1 * s[1]
    if uniform[0] < 0.02:
        s[2] = 2.0 * uniform[1] - 1.0
    reward[0] = -abs(s[0] - s[2])
    ended[0] = np.uint8(abs(s[0]) > 3.0)
    shown[:] = s
    return 0


follow = pyrl.envs.native_env(
    "Follow",
    Box(-np.inf, np.inf, (3,), np.float32),
    Box(-1.0, 1.0, (1,), np.float32),
    reset=reset,
    step=step,
    state_size=3 * 8,
    reset_uniforms=1,
    step_uniforms=2,
    max_episode_steps=100,
    parameters={"friction": 0.05},
)

if __name__ == "__main__":
    before = pyrl.evaluate(pyrl.make_agent("ppo", follow.observation_space, follow.action_space, seed=0), follow, episodes=20)
    run = pyrl.train("ppo", follow, total_steps=40_000, seed=0, run_dir=False)
    after = pyrl.evaluate(run.agent, follow, episodes=20)
    print(f"ppo: mean return {before.mean:.1f} before, {after.mean:.1f} after {run.agent.env_steps:,} steps")
    assert after.mean > before.mean + 10
