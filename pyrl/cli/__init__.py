"""The command line: ``pyrl train ppo CartPole-v1``, then ``pyrl eval``, ``play``, ``plot`` and ``export`` on its run folder.

Flags are made from dataclasses: those of the commands, and the config of the algorithm with its preset's values as
defaults. Training itself is `pyrl.experiment.train`; its records become a progress bar here. Heavy libraries are imported
where they are used and a command's own file when it is called, so that a mistyped name is answered at once. That is why the
commands are a table here and not tyro's subcommands: those build the parsers of all commands before one is chosen, which takes
0.5 s of imports in place of 0.04, and 2.3 s with the algorithms' configs, which import torch (CPU time, 2026-11-29).

Exit codes: 0; 1 when an environment failed (or `doctor` found something wrong); 2, with one line, for what the user can mend: a
mistake, a missing package, a damaged checkpoint, a full disk; 128 and the signal's number after SIGHUP (129), Ctrl-C (130) and
SIGTERM (143), with the run saved.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from pyrl.errors import CheckpointError, DTypeError, EnvError, NetworkError, UnknownNameError, closest_names

USAGE = """usage: pyrl COMMAND ...

  train ALGO ENV   train an agent            pyrl train ppo CartPole-v1 --seed 1
  train --resume   resume a stopped run      pyrl train --resume runs/...
  eval RUN         evaluate a run            pyrl eval runs/... --episodes 100
  play RUN         watch a run               pyrl play runs/... --video play.mp4
  plot RUN...      draw one run, or several  pyrl plot runs/ppo_* --out ppo.png
  export RUN       its policy as a file      pyrl export runs/... --to onnx
  list             what there is: algorithms, presets, environments, runs
  include          the folder of pyrl_env.h, for native environments of yours
  doctor           what was found on this machine, and a check of the kernels

COMMAND --help shows its flags (pyrl train ALGO ENV --help: those of the algorithm too); --version the version."""

COMMANDS = {
    "train": "train",
    "eval": "evaluate",
    "play": "play",
    "plot": "plot",
    "export": "export",
    "list": "list_all",
    "include": "include",
    "doctor": "doctor",
}  # its function


def run(arguments: list[str]) -> int:
    """Run one command; the exit code. KeyboardInterrupt is for `pyrl.__main__`."""
    try:
        return _run(arguments)
    except SystemExit as stop:  # tyro has printed help or a mistake
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # pyrl list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EnvError as error:
        return _fail(error, 1)
    except (CheckpointError, DTypeError, NetworkError, OSError, ModuleNotFoundError) as error:
        return _fail(error, 2)
    except Exception as error:
        if type(error).__name__ == "DependencyNotInstalled":  # Gymnasium's, when a renderer is missing; it names the command
            return _fail(error, 2)
        if not isinstance(error, ValueError) or not _raised_by_pyrl(error):
            raise
        return _fail(error, 2)


def _run(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if command in ("-V", "--version"):
        print(f"pyrl {pyrl_version()}")
        return 0
    if command not in COMMANDS:
        close = closest_names(command, COMMANDS)
        raise UnknownNameError(f"unknown command {command!r}{close} (commands: {', '.join(COMMANDS)})")
    return getattr(importlib.import_module(f"pyrl.cli.{command}"), COMMANDS[command])(rest)


def pyrl_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pyrl")
    except PackageNotFoundError:
        return "(not installed)"


def _fail(error: object, code: int) -> int:
    print(f"pyrl: {error}", file=sys.stderr)
    return code


def _raised_by_pyrl(error: BaseException) -> bool:
    """Whether pyrl itself refused a value; anything else is a bug, whose traceback is shown."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and Path(place.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parent.parent)
