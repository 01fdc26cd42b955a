"""From an agent and a loop to a run: `pyrl.train`, the run folder, metrics, curves, presets."""
