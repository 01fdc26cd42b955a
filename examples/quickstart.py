"""Train, evaluate, save, load: the library's first door in ten lines."""

import pyrl

run = pyrl.train("ppo", "CartPole-v1", total_steps=30_000, seed=0)
print(run.dir, {k: round(v, 2) for k, v in run.metrics[-1].items()})
print(pyrl.evaluate(run.agent, "CartPole-v1", episodes=10))

path = run.agent.save(run.dir / "my_agent")
agent = pyrl.load(path)
print(agent.act(run.agent.observation_space.sample()))
