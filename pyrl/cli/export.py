"""``pyrl export``: a trained policy as one file for elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyrl.cli.chosen import RunArgument, trained_run
from pyrl.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    run: RunArgument  # run folder, or one of its checkpoints
    to: Literal["onnx", "torchscript", "numpy"] | None = None  # None: by the suffix of --out, else onnx
    out: Path | None = None  # file; None: policy.onnx, policy.pt or policy.py in the run folder


def export(arguments: list[str]) -> int:
    options = parse(ExportOptions, arguments, "export", "Write the policy of a run as one file: ONNX, TorchScript, or Python with NumPy.")
    run, path = trained_run(options.run)
    from pyrl.agents.checkpoints import load_agent
    from pyrl.deploy.export import SUFFIXES
    from pyrl.deploy.export import export as write
    from pyrl.experiment.runs import shown

    out, form = options.out, options.to
    if out is None:
        form = form or "onnx"
        out = run.path / f"policy{next(suffix for suffix, own in SUFFIXES.items() if own == form)}"
    written = write(load_agent(path, device="cpu"), out, to=form)
    print(f"{shown(written.absolute())} (checkpoint {shown(path.absolute())}; acts as it does on 1,000 random observations)")
    return 0
