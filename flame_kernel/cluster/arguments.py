"""The arguments of a FlameCluster, checked before anything is connected. Works without dask.distributed."""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..connect.location import Location
from ..connect.selection import Chosen, select
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import TargetError


def chosen(hosts: str | Iterable[str] | None) -> list[Chosen]:
    """The sessions that ``hosts`` names, or the default group. Raises TargetError."""
    file = TargetsFile(targets_path(os.environ))
    named: Any = file.default_group if hosts is None else hosts
    words = named if isinstance(named, str) else list(named) if isinstance(named, Iterable) else []
    if not words or not all(isinstance(one, str) for one in words):
        raise TargetError(
            "name the hosts of the cluster: a group of targets.toml, a list of locations, or furnace*4 for four workers"
        )
    return select(words, file)


def count(number: Any, what: str) -> int:
    """The number of workers that ``number`` is. Raises TargetError."""
    with contextlib.suppress(TypeError):
        if not isinstance(number, bool) and operator.index(number) >= 0:
            return operator.index(number)
    raise TargetError(f"{what} is a number of workers, not {number!r}")


def rounded_up(number: Any, what: str) -> int:
    """As `count`, also for fractions, which dask takes. Raises TargetError."""
    return count(math.ceil(number) if isinstance(number, float) and 0 <= number < math.inf else number, what)


def scheduler_place(scheduler: Any, chosen: list[Chosen]) -> str:
    """``here``, ``first``, or the name of a host as it was given. Raises TargetError for other words."""
    places = list(dict.fromkeys(one.where for one in chosen))
    for where in places:
        if scheduler == where or (":" in where and scheduler == str(Location.parse(where))):
            return where
    if scheduler not in ("here", "first"):
        known = ", ".join(places)
        raise TargetError(f"scheduler {scheduler!r} is not a host of the cluster; write here, first, or one of {known}")
    return str(scheduler)


def class_name(worker_class: Any) -> str:
    """The class as text, by which hosts import it. Raises TargetError if that cannot be."""
    name = worker_class
    if isinstance(worker_class, type):
        name = f"{worker_class.__module__}.{worker_class.__qualname__}"
    if not isinstance(name, str) or "." not in name.strip("."):
        raise TargetError(f"worker_class is a class with its module, such as distributed.Nanny, not {name!r}")
    if name.startswith("__main__.") or "<locals>" in name:
        raise TargetError(f"worker_class {name} cannot be imported by hosts; put it in a module that they have")
    return name


def by_name(options: Any, what: str) -> dict[str, Any]:
    """Arguments by name. Raises TargetError."""
    found = {} if options is None else options
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise TargetError(f"{what} is a dict of arguments by name, such as {{'port': 0}}, not {options!r}")
    return dict(found)


def plain(options: Any, what: str) -> dict[str, Any]:
    """Options for another machine, which are sent as JSON. Raises TargetError if JSON cannot represent them."""
    found = by_name(options, what)
    try:
        json.dumps(found)
    except (TypeError, ValueError) as e:
        raise TargetError(f"{what} are sent as JSON: numbers, text, lists, tables; {e}") from None
    return found


def for_workers(options: Any) -> dict[str, Any]:
    """``worker_options``, checked as far as it can be known here. Raises TargetError."""
    found = plain(options, "worker_options")
    if "name" in found:
        raise TargetError("a cluster names its workers itself; leave name out of worker_options")
    threads, memory = found.get("nthreads", 1), found.get("memory_limit", "auto")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise TargetError(f"nthreads of a worker is 1 or more, not {threads!r}")
    if isinstance(memory, str) and memory != "auto":
        from dask.utils import parse_bytes  # not needed to look at other arguments

        try:
            parse_bytes(memory)
        except (ValueError, KeyError):
            raise TargetError(f"{memory!r} is not a size of memory; write it as 4GiB or 500MB") from None
    return found
