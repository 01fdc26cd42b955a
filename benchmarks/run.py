"""The one benchmark driver: pyrl, references and peers on the same work, in turns. See README.md.

python benchmarks/run.py [SUBJECT ...] [--quick] [--goals] [--only REGEX] [--peers sb3,cpprb] [--threads N] [--cpu] [--list]
python benchmarks/run.py --install-peers [--peers sb3,cpprb]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _report import Group, Report
from _timing import Case

HERE = Path(__file__).resolve().parent
VENVS = HERE / ".venvs"
PEERS = sorted(path.stem for path in (HERE / "peers").glob("*.txt"))
SUBJECTS = sorted({path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py")} - {"adapters"})  # which has a table of its own


class WorkerError(Exception):
    """The worker's process died, or could not greet; the message is the last line of what it said."""


class Remote:
    """A worker process (`_timing.serve`) and what it offers."""

    def __init__(self, python: str | Path, module: str, threads: int, keep_path: bool = False) -> None:
        environment = dict(os.environ, PYRL_NUM_THREADS=str(threads), NUMBA_NUM_THREADS=str(threads))
        environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        if threads == 1:
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        if not keep_path:
            environment.pop("PYTHONPATH", None)
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        self.process = subprocess.Popen(
            [python, HERE / "_timing.py", module], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        greeting = self._reply()
        if "error" in greeting:
            self.close()
            raise WorkerError(greeting["error"])
        self.contenders: dict[str, list[str]] = greeting["contenders"]
        self.versions: dict[str, str] = greeting["versions"]
        self.cases = [Case(**{**case, "goals": tuple(case["goals"])}) for case in greeting["cases"]]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        return self._reply()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _reply(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        status = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        return f"the process died with status {status}: {said[-1] if said else 'it said nothing'}"


def install(peer: str) -> str | None:
    """Make the peer's virtual environment; what went wrong, if anything."""
    home, log = VENVS / peer, VENVS / f"{peer}.install.log"
    VENVS.mkdir(exist_ok=True)
    (VENVS / ".gitignore").write_text("*\n")
    venv.create(home, with_pip=True, clear=True)
    environment = dict(os.environ, VIRTUAL_ENV=str(home), PATH=f"{home / 'bin'}:{os.environ['PATH']}")
    commands = [["pip", "install", "--disable-pip-version-check", "-r", HERE / "peers" / f"{peer}.txt"]]
    recipe = HERE / "peers" / f"{peer}.sh"  # for what pip alone does not do
    commands += [["bash", recipe]] if recipe.exists() else []
    with open(log, "w") as output:
        failed = any(subprocess.run(c, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode for c in commands)
    errors = [line for line in log.read_text().splitlines() if "error" in line.lower()]
    return (errors[-1].strip() if errors else f"see {log}") if failed else None


def start_peers(names: list[str], threads: int, report: Report) -> dict[str, Remote]:
    remotes = {}
    for name in names:
        python = VENVS / name / "bin" / "python"
        try:
            if not python.exists():
                raise WorkerError("not installed: python benchmarks/run.py --install-peers")
            remotes[name] = Remote(python, f"peers.{name}", threads)
            report.peer_versions(name, remotes[name].versions)
        except WorkerError as reason:
            report.peer_missing(name, str(reason))
    return remotes


def prepare(case: Case, remote: Remote, name: str) -> dict[str, Any]:
    try:
        return remote.ask("prepare", op=case.op, name=name, params=case.params)
    except WorkerError as reason:
        return {"error": str(reason)}


def run_case(case: Case, remotes: list[Remote], rounds: int, seconds: float) -> Group:
    """Prepare every contender of the case, one after the other in each worker; then time them in turns."""
    group = Group(case)
    offers = [(remote, remote.contenders.get(case.op, [])) for remote in remotes]
    with ThreadPoolExecutor() as pool:
        replies = list(pool.map(lambda offer: [prepare(case, offer[0], name) for name in offer[1]], offers))
    ready: list[tuple[Remote, str, int]] = []
    for (remote, names), answers in zip(offers, replies):
        for name, reply in zip(names, answers):
            if "answer" in reply and not case.once:
                reply |= remote.ask("calibrate", name=name, seconds=seconds)
            if reason := reply.get("unsupported") or reply.get("error"):
                group.refuse(name, reason)
            else:
                group.add(name, reply["answer"])
                ready.append((remote, name, reply.get("loops", 1)))
    for _ in range(rounds):
        for contender in list(ready):
            remote, name, loops = contender
            reply = remote.ask("time", name=name, loops=loops)
            if reason := reply.get("unsupported") or reply.get("error"):
                group.refuse(name, reason)
                ready.remove(contender)
            else:
                group.time(name, reply["ns"])
    for remote in remotes:
        if remote.process.poll() is None:
            remote.ask("drop", stores=False)
    return group


def run_subject(subject: str, peers: dict[str, Remote], report: Report, options: argparse.Namespace) -> None:
    try:
        home = Remote(sys.executable, f"bench_{subject}", options.threads, keep_path=True)
    except WorkerError as reason:
        report.subject_missing(subject, str(reason))
        return
    report.subject(subject, home.versions)
    wanted = re.compile(options.only or "")
    for case in home.cases:
        if wanted.search(case.name) and (case.goals or not options.goals):
            if options.list:
                offers = [name for worker in (home, *peers.values()) for name in worker.contenders.get(case.op, ())]
                print(f"{case.name:40} {', '.join(offers)}")
                continue
            report.add(run_case(case, [home, *peers.values()], options.rounds, options.seconds))
    home.close()
    for peer in peers.values():
        if peer.process.poll() is None:
            peer.ask("drop", stores=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"{', '.join(SUBJECTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.05 s instead of 5 of 0.2 s")
    parser.add_argument("--only", metavar="REGEX", help="cases whose name matches")
    parser.add_argument("--goals", action="store_true", help="only the cases that have goals of their own")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"comma-separated, of {', '.join(PEERS)}; default: all; '' for none")
    parser.add_argument("--threads", type=int, default=1, help="threads for everyone; default: 1")
    parser.add_argument("--cpu", action="store_true", help="time in CPU seconds of the contender's process: for a busy machine")
    parser.add_argument("--list", action="store_true", help="show cases and contenders, time nothing")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON file")
    parser.add_argument("--install-peers", action="store_true", help="make the peers' virtual environments")
    options = parser.parse_args()
    options.peers = [name for name in options.peers.split(",") if name]
    for given, known in ((options.subjects, SUBJECTS), (options.peers, PEERS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; expected {', '.join(known)}")
    options.subjects = options.subjects or SUBJECTS
    if options.cpu:
        os.environ["PYRL_BENCHMARK_CLOCK"] = "cpu"
    options.rounds, options.seconds = (3, 0.05) if options.quick else (5, 0.2)
    return options


def main() -> None:
    options = arguments()
    if options.install_peers:
        for peer in options.peers:
            print(f"{peer}: {install(peer) or 'installed'}", flush=True)
        return
    report = Report(options)
    peers = start_peers(options.peers, options.threads, report)
    for subject in options.subjects:
        run_subject(subject, peers, report, options)
    for peer in peers.values():
        peer.close()
    if not options.list:
        report.finish(options.results)


if __name__ == "__main__":
    main()
