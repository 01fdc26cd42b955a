"""The border under fire: calls of every function with arguments as strangers bring them, each beside the same call on plain copies.

    python -m tests.fuzz.border --calls 1000000 --seed 0        # from the repository's root
    python -m tests.fuzz.border --only gae --seed 7 --first 41 --calls 1     # one call again

A call either raises a typed error, and nothing has changed; or it gives what the same call gives on plain, fresh, contiguous copies.
Before each call its number is written to ``--trace``, so that a crash can be told to a call.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyrl.errors import NonFiniteError
from tests.fuzz import mutants
from tests.fuzz.signatures import TABLE, Case

# What is not finite shows in their result only: then what they write to is lost, and nothing else.
LATE = {"policy_loss", "value_loss", "q_loss", "squashed_gaussian", "squashed_gaussian_backward"}
TYPED = (ValueError, TypeError, BufferError, OverflowError, MemoryError)


def leaves(value: Any) -> list[Any]:
    """Arrays and numbers of a result, in order, as things that compare equal to the bit."""
    if dataclasses.is_dataclass(value):
        value = vars(value) if not hasattr(value, "__slots__") else {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key])]
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, torch.Tensor):
        return [("torch", str(value.dtype), tuple(value.shape), bits(value.numpy()))]
    if isinstance(value, np.ndarray):
        return [("numpy", value.dtype.str, value.shape, bits(value))]
    if isinstance(value, float):
        return [bits(np.float64(value))]
    return [value]


def bits(a: Any) -> bytes:
    """NaNs are equal, whatever their sign and payload; so are flags, whatever byte says True."""
    a = np.ascontiguousarray(a)
    if a.dtype == bool:
        return (a.view(np.uint8) != 0).tobytes()
    return (np.where(np.isnan(a), np.array(np.nan, a.dtype), a) if a.dtype.kind == "f" else a).tobytes()


def mutated(memory: mutants.Memory, case: Case, torch_kind: bool) -> tuple[dict[str, Any], list[str]]:
    r = memory.random
    values: dict[str, Any] = {}
    arrays = [name for name, value in case.values.items() if isinstance(value, np.ndarray)]
    for name, value in case.values.items():
        values[name] = memory.place(value) if isinstance(value, np.ndarray) else value
    done = []
    for _ in range(r.choice([0, 1, 1, 1, 2, 3])):
        name = str(r.choice(list(values)))
        if name not in arrays:
            weird = mutants.WEIRD[r.integers(len(mutants.WEIRD))]
            small = not isinstance(weird, int | float) or not 2**20 < weird <= 2**40
            values[name] = weird if small or name not in case.sizes else -1
            done.append(f"{name} is {type(weird).__name__}")
        elif r.integers(4) == 0 and len(arrays) > 1:
            other = str(r.choice(arrays))
            overlap(memory, values, name, other)
            done.append(f"{name} overlaps {other}")
        elif isinstance(values[name], np.ndarray):
            kind = int(r.integers(len(mutants.NUMPY)))
            values[name] = mutants.NUMPY[kind](memory, values[name])
            done.append(f"{name}: numpy mutant {kind}")
    for name in arrays if torch_kind else ():
        value = values[name]
        if type(value) is not np.ndarray or min(value.strides, default=0) < 0 or not value.dtype.isnative or not value.flags.writeable:
            continue
        try:
            values[name] = torch.from_numpy(value)
        except (TypeError, ValueError):
            continue
        if r.integers(2 * len(arrays)) == 0:
            kind = int(r.integers(len(mutants.TORCH)))
            values[name] = mutants.TORCH[kind](memory, values[name])
            done.append(f"{name}: torch mutant {kind}")
    return values, done


def overlap(memory: mutants.Memory, values: dict[str, Any], name: str, other: str) -> None:
    a, b = values[name], values[other]
    if not (type(a) is type(b) is np.ndarray) or name == other or a.dtype.hasobject or b.dtype.hasobject or not (a.nbytes and b.nbytes):
        return
    at = int(memory.random.integers(0, max(b.nbytes // 16, 1) + 1)) * 16 if memory.random.integers(2) else 0
    block = memory.block(max(at + a.nbytes, b.nbytes))
    over_b, over_a = block[: b.nbytes].view(b.dtype).reshape(b.shape), block[at : at + a.nbytes].view(a.dtype).reshape(a.shape)
    over_b[...] = b
    if memory.random.integers(2):
        over_a[...] = a
    if a.dtype == bool:
        over_a.view(np.uint8)[...] &= 1
    values[name], values[other] = over_a, over_b


def outcome(case: Case, thing: Any, values: dict[str, Any]) -> tuple[Any, Exception | None]:
    try:
        return leaves(case.call(thing, **values)), None
    except TYPED as error:
        return None, error


def check(name: str, seed: int, number: int, counts: Counter[str]) -> str | None:
    """What is wrong with this call, or None."""
    memory = mutants.Memory(np.random.default_rng([seed, number]))
    case = TABLE[name](memory.random)
    values, done = mutated(memory, case, bool(memory.random.integers(2)))
    try:
        copies = {key: mutants.plain(value) for key, value in values.items()}
    except TypeError:
        copies = None
    thing = case.setup()
    before, state = memory.bytes(), leaves(case.state(thing))
    result, error = outcome(case, thing, values)
    if error is not None:
        counts["refused"] += 1
        late = name in LATE and isinstance(error, NonFiniteError) and copies is not None
        kept = (
            all(leaves(mutants.plain(values[key])) == leaves(copies[key]) for key in values.keys() - case.outs)
            if late
            else memory.bytes() == before
        )
        if not kept or leaves(case.state(thing)) != state:
            return f"{done}: something has changed though the call raised {error!r}"
        if not done and 2**62 not in leaves(list(case.values.values())):
            return f"valid arguments are refused: {error!r}"
        if "Exception raised from" in str(error) or isinstance(error, SystemError):
            return f"{done}: a C++ stack in {error!r}"
        return None
    counts["accepted"] += 1
    if copies is None:
        return f"{done}: accepted, though the numbers of an argument are not to be had"
    twin = case.setup()
    expected, refused = outcome(case, twin, copies)
    if refused is not None:
        return f"{done}: accepted, and refused on plain copies: {refused!r}"
    if result != expected or leaves(case.state(thing)) != leaves(case.state(twin)):
        return f"{done}: the result differs from the one on plain copies"
    for key in case.outs:
        if leaves(mutants.plain(values[key])) != leaves(mutants.plain(copies[key])):
            return f"{done}: {key} differs from the one of plain copies"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--only", choices=sorted(TABLE), help="one function")
    parser.add_argument("--trace", type=Path, help="a file for the number of the call that runs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = [options.only] if options.only else sorted(TABLE)
    counts: Counter[str] = Counter()
    faults = 0
    trace = options.trace.open("w") if options.trace else None
    for number in range(options.first, options.first + options.calls):
        name = names[number % len(names)]
        if trace:
            trace.seek(0)
            trace.write(f"--only {name} --seed {options.seed} --first {number} --calls 1".ljust(100) + "\n")
            trace.flush()
        try:
            fault = check(name, options.seed, number, counts)
        except Exception as error:  # neither a result nor a typed error
            fault = f"{type(error).__name__}: {str(error)[:300]}"
        if fault:
            faults += 1
            print(f"{name} (--only {name} --seed {options.seed} --first {number} --calls 1): {fault}", flush=True)
    print(f"{options.calls} calls: {counts['accepted']} gave what plain copies give, {counts['refused']} were refused, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
