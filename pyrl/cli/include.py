"""``pyrl include``: the folder of pyrl_env.h, for compilers."""

from __future__ import annotations

from dataclasses import dataclass

from pyrl.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class IncludeOptions:
    pass


def include(arguments: list[str]) -> int:
    parse(IncludeOptions, arguments, "include", 'The folder of pyrl_env.h: cc -shared -fPIC -I "$(pyrl include)" myenv.c -o libmyenv.so')
    from pyrl.envs import include_dir

    print(include_dir())
    return 0
