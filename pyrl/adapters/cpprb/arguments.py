"""What the constructors are given, checked: sizes, columns and their names."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pyrl.errors import SettingError, SettingTypeError


class Column(NamedTuple):
    shape: tuple[int, ...]  # of one row
    dtype: np.dtype


def whole_number(caller: str, name: str, value: Any) -> int:
    try:
        whole = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise SettingTypeError(f"{caller}: {name} is {value!r}, expected a whole number") from None
    if whole < 1:
        raise SettingError(f"{caller}: {name} is {value!r}, expected at least 1")
    return whole


def columns_of(caller: str, env_dict: Any, default_dtype: Any) -> dict[str, Column]:
    if not isinstance(env_dict, Mapping) or not env_dict:
        raise SettingTypeError(f"{caller}: env_dict is {env_dict!r}, expected columns by name, {{'obs': {{'shape': 3}}}}")
    return dict(each_column(caller, env_dict, np.float32 if default_dtype is None else default_dtype))


def each_column(caller: str, env_dict: Mapping[str, Any], default_dtype: Any) -> Iterator[tuple[str, Column]]:
    for name, about in env_dict.items():
        where = f"{caller}: env_dict[{name!r}]"
        if not isinstance(about, Mapping):
            raise SettingTypeError(f"{where} is {about!r}, expected a dict with shape and dtype")
        if unknown := sorted(
            about.keys() - {"shape", "dtype", "add_shape"}
        ):  # the last is what cpprb writes into the dict that it is given
            raise SettingError(f"{where} has an entry {unknown[0]!r}, expected shape and dtype")
        try:
            shape = tuple(operator.index(n) for n in np.atleast_1d(about.get("shape", 1)))
            dtype = np.dtype(about.get("dtype", default_dtype))
        except TypeError:
            raise SettingTypeError(f"{where} is {about!r}, expected shape: whole numbers, dtype: what NumPy knows") from None
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or min(shape, default=1) < 1:
            raise SettingError(f"{where} has shape {shape} and dtype {dtype}, expected extents of at least 1, and numbers or bool")
        yield name, Column(shape, dtype)


def names_in(caller: str, argument: str, given: Any, columns: Mapping[str, Column]) -> tuple[str, ...]:
    if given is not None and not isinstance(given, str | list | tuple | set | frozenset | np.ndarray):
        raise SettingTypeError(f"{caller}: {argument} is {given!r}, expected a name or a list of names")
    names = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in columns:
            raise SettingError(f"{caller}: {argument} has {name!r}, which is not a column of env_dict: {', '.join(columns)}")
    return names
