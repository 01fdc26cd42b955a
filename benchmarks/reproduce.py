"""Published scores, run again: a table of (algorithm, environment, budget, seeds) with the presets as a user gets them.

python benchmarks/reproduce.py [NAME ...] [--seeds 5] [--jobs 1] [--out runs/reproduce]      train what is missing, then write the report
python benchmarks/reproduce.py --list

Each seed trains in a process of its own with `pyrl.train`, one thread, and its *last* checkpoint is evaluated on the same 100 start
states (`pyrl.evaluate(agent, env, 100, seed=10_000)`), deterministic. A finished seed is not run again, so an interrupted run goes
on. The report is written into docs/results.md between the marks, with docs/results.json and one curve a row in docs/curves; rows that have
no seed in ``--out`` stay as they are there, and so does the control, unless all rows are asked for.
Threshold times are those of the training episodes' 100-episode mean: the environment steps and the wall seconds at which it passed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- reproduce.py writes from here -->", "<!-- to here -->"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row. ``bar``: what the IQM should reach. ``threshold``: of the training return, for the times."""

    algo: str
    env: str
    bar: float
    threshold: float | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of pyrl.train, beside the preset
    suffix: str = ""
    success: bool = False  # score by success rate

    @property
    def name(self) -> str:
        return f"{self.algo}-{self.env}{self.suffix}"


TORCH = "-torch"
# Settings that three agents share where one core is to compare them: a batch of 64, small layers (CrossQ's critics four times as wide).
SMALL = {"learning_rate": 1e-3, "learning_starts": 1_000, "batch_size": 64}
SMALL_NETWORKS: dict[str, Any] = {"sac": [64, 64], "tqc": [64, 64], "crossq": {"actor": [64, 64], "critic": [256, 256]}}

# Distributed replay with the ingredients of Horgan et al. 2018, and fewer updates than the preset makes: 128 transitions for every second
# step.
APEX: dict[str, Any] = {
    "workers": 2, "replay_shards": 2, "num_envs": 8, "samples_per_insert": 64, "total_steps": 120_000,
    "learning_rate": "linear_1e-3", "batch_size": 128, "buffer_size": 200_000, "learning_starts": 2_000, "n_step": 3, "double": True,
    "prioritized": True, "exploration_decay": None, "exploration_fraction": 0.1, "exploration_final_eps": 0.4, "loss": "huber",
    "max_grad_norm": 10.0, "net_arch": [128, 128],
}  # fmt: skip

TABLE = [
    Entry("ppo", "CartPole-v1", 490, 475, {"total_steps": 100_000}),
    Entry("a2c", "CartPole-v1", 490, 475, {"total_steps": 500_000}),
    Entry("dqn", "CartPole-v1", 475, 475, {"total_steps": 50_000}),
    Entry("a3c", "CartPole-v1", 475, 475),
    Entry("impala", "CartPole-v1", 475, 475),
    Entry("impala", "CartPole-v1", 475, 475, {"workers": 2}, suffix="-workers"),
    Entry("impala", "CartPole-v1", 475, 475, {"workers": 2, "worker_engine": "ray"}, suffix="-ray"),
    Entry("impala", "LunarLander-v3", 200, 200, {"workers": 2}, suffix="-workers"),
    Entry("impala", "LunarLander-v3", 200, 200, {"workers": 2, "worker_engine": "ray"}, suffix="-ray"),
    Entry("appo", "CartPole-v1", 475, 475, {"workers": 2}, suffix="-workers"),
    Entry("appo", "LunarLander-v3", 200, 200, {"workers": 2}, suffix="-workers"),
    Entry("appo", "CartPole-v1", 475, 475, {"workers": 2, "worker_engine": "ray"}, suffix="-ray"),
    Entry("appo", "LunarLander-v3", 200, 200, {"workers": 2, "worker_engine": "ray"}, suffix="-ray"),
    Entry("sac", "Pendulum-v1", -165, -200, {"total_steps": 20_000}),
    Entry("td3", "Pendulum-v1", -165, -200, {"total_steps": 20_000}),
    Entry("ddpg", "Pendulum-v1", -200, -200, {"total_steps": 5_000}, suffix="-5k"),
    Entry("ddpg", "Pendulum-v1", -165, -200, {"total_steps": 10_000}, suffix="-10k"),
    Entry("svg", "Pendulum-v1", -200, -200, {"total_steps": 20_000}),
    Entry("dqn", "Acrobot-v1", -85, -100, {"total_steps": 100_000}),
    Entry("ppo", "Acrobot-v1", -80, -100),
    Entry("sac", "MountainCarContinuous-v0", 90, 90, {"total_steps": 50_000}),
    Entry("dqn", "FrozenLake8x8-v1", 0.84, None, success=True),
    Entry("ppo", "FrozenLake-v1", 0.725, None, success=True),
    Entry("dqn", "LunarLander-v3", 200, 200),
    Entry("dqn", "LunarLander-v3", 200, 200, APEX, suffix="-shards"),
    Entry("sac", "LunarLanderContinuous-v3", 250, 200),
    # The other engine on the same task: its interval must meet that of the row without the suffix.
    Entry("ppo", "CartPole-v1", 490, 475, {"total_steps": 100_000, "engine": "torch"}, suffix=TORCH),
    Entry("dqn", "CartPole-v1", 475, 475, {"total_steps": 50_000, "engine": "torch"}, suffix=TORCH),
    Entry("sac", "Pendulum-v1", -165, -200, {"total_steps": 20_000, "engine": "torch"}, suffix=TORCH),
    *(
        Entry(algo, env, bar, None, {"total_steps": steps, **SMALL, "net_arch": net_arch}, suffix="-small")
        for env, bar, steps in (("Pendulum-v1", -165, 10_000), ("InvertedDoublePendulum-v5", 9_100, 20_000))
        for algo, net_arch in SMALL_NETWORKS.items()
    ),
]


# -- one seed ----------------------------------------------------------------------------------------------------------


def run_seed(row: Entry, seed: int, folder: Path) -> None:
    """Train and evaluate; the last thing written is result.json."""
    import pyrl

    reached: dict[str, float] = {}
    start = time.perf_counter()

    def watch(metrics: pyrl.types.Metrics) -> None:
        mean, episodes = metrics.get("episode/return_mean", -np.inf), metrics["time/episodes"]
        if row.threshold is not None and not reached and episodes >= 100 and mean >= row.threshold:
            reached.update(steps=metrics["time/env_steps"], seconds=time.perf_counter() - start)

    run = pyrl.train(row.algo, row.env, seed=seed, run_dir=folder, on_metrics=watch, **row.options)
    seconds = time.perf_counter() - start
    result = pyrl.evaluate(pyrl.load(folder / "checkpoints" / "last"), row.env, 1000 if row.success else 100, seed=10_000)
    last = run.metrics[-1]
    report = {
        "score": result.success_rate if row.success else result.mean,
        "std": result.std,
        "training_mean": last.get("episode/return_mean"),
        "steps": run.agent.env_steps,
        "episodes": last["time/episodes"],
        "seconds": seconds,
        "engine": run.agent.engine,
        "threshold_steps": reached.get("steps"),
        "threshold_seconds": reached.get("seconds"),
    }
    (folder / "result.json").write_text(json.dumps(report, indent=1))


def linear_search(seed: int) -> tuple[int, float]:
    """(environment steps, seconds) until a random linear policy has five perfect episodes of CartPole-v1: the control."""
    import gymnasium

    env = gymnasium.make("CartPole-v1")
    random = np.random.default_rng(seed)
    steps, start = 0, time.perf_counter()
    env.reset(seed=seed)

    def episode(weight: np.ndarray) -> float:
        nonlocal steps
        observation, total, over = env.reset()[0], 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(int(observation @ weight > 0))
            total, over, steps = total + float(reward), terminated or truncated, steps + 1
        return total

    while True:
        weight = random.normal(size=4)
        if all(episode(weight) == 500 for _ in range(5)):
            return steps, time.perf_counter() - start


# -- all seeds ---------------------------------------------------------------------------------------------------------


def train_missing(rows: list[Entry], seeds: int, jobs: int, out: Path) -> None:
    missing = [(row, seed) for row in rows for seed in range(seeds) if not (out / row.name / str(seed) / "result.json").exists()]

    def work(task: tuple[Entry, int]) -> None:
        row, seed = task
        folder = out / row.name / str(seed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            subprocess.run(["rm", "-rf", str(folder)], check=True)
        log = out / row.name / f"{seed}.log"
        with log.open("w") as stream:
            command = [sys.executable, __file__, "--one", row.name, str(seed), "--out", str(out)]
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        path = folder / "result.json"
        text = f"{json.loads(path.read_text())['score']:.2f}" if path.exists() else f"failed ({code.returncode}), see {log}"
        print(f"{row.name} seed {seed}: {text}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, missing))


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: of the middle half (Agarwal et al. 2021)."""
    cut = len(scores) // 4
    return float(np.sort(scores)[cut : len(scores) - cut].mean())


def interval(scores: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the IQM."""
    random = np.random.default_rng(0)
    means = [iqm(random.choice(scores, len(scores))) for _ in range(2000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def collect(rows: list[Entry], out: Path, before: dict[str, Any]) -> dict[str, Any]:
    """Every row by its name: of the seeds in ``out``, else as it was ``before``, in docs/results.json."""
    table = {}
    for row in rows:
        results = [
            json.loads(path.read_text()) for path in sorted((out / row.name).glob("*/result.json"), key=lambda p: int(p.parent.name))
        ]
        if not results:
            if row.name in before:
                table[row.name] = before[row.name]
            continue
        written = max((out / row.name).glob("*/result.json"), key=lambda p: p.stat().st_mtime).stat().st_mtime
        scores = np.array([r["score"] for r in results])
        times = {
            key: float(np.median(values)) if len(values := [r[key] for r in results if r[key] is not None]) == len(results) else None
            for key in ("threshold_steps", "threshold_seconds")
        }
        table[row.name] = {
            "algo": row.algo, "env": row.env, "bar": row.bar, "threshold": row.threshold, "options": row.options,
            "success": row.success, "iqm": iqm(scores), "interval": interval(scores), "median": float(np.median(scores)),
            "worst": float(scores.min()),
            "all_threshold_steps": [r["threshold_steps"] for r in results], "scores": scores.tolist(), "steps": results[0]["steps"],
            "seconds": float(np.median([r["seconds"] for r in results])), "engine": results[0]["engine"], **times,
            "machine": machine(), "date": datetime.date.fromtimestamp(written).isoformat(),
        }  # fmt: skip
    return table


def machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def compare_engines(native: dict[str, Any], torch: dict[str, Any]) -> str:
    """Whether learning is the same by both engines, in scores and (where every seed got there) in steps to the threshold."""

    def compare(what: str, *samples: list[float]) -> str:
        (a, b), (c, d) = (interval(np.array(x, float)) for x in samples)
        verdict = "overlap" if a <= d and c <= b else "**do not overlap**"
        return f"{what} [{a:,.1f}, {b:,.1f}] and [{c:,.1f}, {d:,.1f}]: {verdict}"

    parts = [compare("scores", native["scores"], torch["scores"])]
    if native["threshold_steps"] is not None and torch["threshold_steps"] is not None:
        parts.append(compare("steps to the threshold", native["all_threshold_steps"], torch["all_threshold_steps"]))
    return f"Two engines, {native['algo']} on {native['env']}: native and torch {'; '.join(parts)}."


def draw(row: Entry, out: Path, to: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    from pyrl.experiment.metrics import read_csv, running_mean

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for path in sorted((out / row.name).glob("*/result.json")):
        episodes = read_csv(path.with_name("episodes.csv"))
        axes.plot(episodes["step"], running_mean(episodes["return"]), linewidth=1.2, label=f"seed {path.parent.name}")
    if row.threshold is not None:
        axes.axhline(row.threshold, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(title=row.name, xlabel="environment steps", ylabel="mean return of 100 episodes")
    axes.legend(fontsize=7)
    to.mkdir(parents=True, exist_ok=True)
    figure.savefig(to / f"{row.name}.png", dpi=110)
    plt.close(figure)


def markdown(table: dict[str, Any], control: dict[str, Any]) -> str:
    lines = [
        "`python benchmarks/reproduce.py`: presets as a user gets them; the last checkpoint of each seed on 100 fixed start states (1000",
        "for success rates), deterministic. IQM: interquartile mean over seeds, with its 95 % bootstrap interval. Times are medians over",
        "seeds until the training episodes' 100-episode mean passed the threshold; a dash where some seed never did. "
        f"{', '.join(sorted({row['machine'] for row in table.values()}))}. Rows with a suffix have settings of their own, in results.json.",
        "",
        "| algorithm, environment | steps | IQM [95 %] | bar | worst | all seeds | threshold | steps to it | seconds to it | run | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        low, high = row["interval"]
        number = "{:.3f}".format if row["success"] else "{:.1f}".format
        cells = [
            f"[{name}](curves/{name}.png)",
            f"{row['steps']:,}",
            f"{number(row['iqm'])} [{number(low)}, {number(high)}]",
            f"{row['bar']}{'' if row['iqm'] >= row['bar'] else ' **missed**'}",
            number(row["worst"]),
            ", ".join(map(number, row["scores"])),
            row["threshold"] or "-",
            "-" if row["threshold_steps"] is None else f"{row['threshold_steps']:,.0f}",
            "-" if row["threshold_seconds"] is None else f"{row['threshold_seconds']:.1f} s",
            f"{row['seconds']:.0f} s",
            row["date"],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    steps, seconds = control["linear_search"]
    for name, row in table.items():
        if name.endswith(TORCH) and (native := table.get(name.removesuffix(TORCH))) is not None:
            lines += ["", compare_engines(native, row)]
    lines += [
        "",
        f"Control for CartPole-v1: random search over linear policies finds one with five perfect episodes after {steps:,} steps,",
        f"{seconds:.2f} s (median of 5 seeds), so that solving CartPole alone says little.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows; default: all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time; more than one spoils the seconds")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--report", action="store_true", help="train nothing, write the report of what is there")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = {row.name: row for row in TABLE}
    if args.list:
        print("\n".join(rows))
        return
    if args.one:
        run_seed(rows[args.one[0]], int(args.one[1]), args.out / args.one[0] / args.one[1])
        return
    unknown = set(args.names) - set(rows)
    if unknown:
        parser.error(f"unknown rows {sorted(unknown)}; --list shows them")
    if not args.report:
        train_missing([row for name, row in rows.items() if not args.names or name in args.names], args.seeds, args.jobs, args.out)
    results = ROOT / "docs" / "results.json"
    before = json.loads(results.read_text())
    table, control = collect(TABLE, args.out, before["rows"]), before["control"]
    if not args.names:
        searches = [linear_search(seed) for seed in range(5)]
        control = {
            "linear_search": [int(np.median([s for s, _ in searches])), float(np.median([t for _, t in searches]))],
            "machine": machine(),
            "date": datetime.date.today().isoformat(),
        }
    for name in table:
        if (args.out / name).exists():
            draw(rows[name], args.out, ROOT / "docs" / "curves")
    results.write_text(json.dumps({"control": control, "rows": table}, indent=1) + "\n")
    page = ROOT / "docs" / "results.md"
    text = re.sub(f"(?s){BEGIN}.*{END}", lambda _: f"{BEGIN}\n{markdown(table, control)}\n{END}", page.read_text())
    page.write_text(text)
    print(markdown(table, control))


if __name__ == "__main__":
    main()
