"""Splits a sequence into one part per host, and joins parts into one sequence."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import FlameError
from ..terminal import one_line
from . import folding


def parts(values: Any, hosts: Sequence[str]) -> list[Any]:
    """Split ``values`` into one part per host, in order; the lengths differ by at most one.

    Raises FlameError if there are fewer items than hosts.
    """
    has_parts = (
        all(hasattr(values, name) for name in ("__len__", "__getitem__")) and getattr(values, "shape", None) != ()
    )
    if isinstance(values, Mapping) or not has_parts:
        raise FlameError(f"{type(values).__name__} has no parts to divide among hosts; make a list of it")
    count = len(values)
    if count < len(hosts):
        without = folding.names(hosts[count:])
        raise FlameError(
            f"{count} items are too few for {len(hosts)} hosts: {without} would get none; use fewer hosts, or push"
        )
    whole, more = divmod(count, len(hosts))
    cut = list(values) if isinstance(values, deque) else getattr(values, "iloc", values)  # slices the rows of a frame
    found, at = [], 0
    for number in range(len(hosts)):
        end = at + whole + (number < more)
        found.append(cut[at:end])
        at = end
    return found


def joined(found: Mapping[str, Any]) -> Any:
    """Join the parts of all hosts in order: arrays to one array, frames to one frame, text to text, anything else to a
    list.

    Raises FlameError, which names the hosts, if the parts are of different kinds or shapes.
    """
    kinds = {host: type(one).__name__ for host, one in found.items()}
    if len({type(one) for one in found.values()}) > 1:
        raise FlameError(
            f"the parts are of different kinds ({_by_host(kinds)}) and cannot be joined; pull them one by one"
        )
    parts = list(found.values())
    try:
        return _joined(parts, type(parts[0]))
    except Exception as error:  # each library raises errors of its own for parts that do not fit
        shapes = {host: str(getattr(one, "shape", "")) for host, one in found.items()}
        why = f"their shapes differ ({_by_host(shapes)})" if len(set(shapes.values())) > 1 else one_line(str(error))
        raise FlameError(f"the parts cannot be joined: {why}; pull them one by one") from None


def _by_host(facts: Mapping[str, str]) -> str:
    return "; ".join(f"{folding.names(block.hosts)}: {block.text}" for block in folding.fold(facts))


def _joined(found: Sequence[Any], kind: type) -> Any:
    module = kind.__module__.partition(".")[0]
    if module == "numpy":
        return sys.modules["numpy"].concatenate(found)
    if module in ("pandas", "polars"):
        return sys.modules[module].concat(found)
    if module == "pyarrow":
        arrow = sys.modules["pyarrow"]
        return (arrow.concat_tables if issubclass(kind, arrow.Table) else arrow.concat_arrays)(found)
    if issubclass(kind, (str, bytes, bytearray)):
        return kind().join(found)
    if issubclass(kind, (set, frozenset)):
        return kind().union(*found)
    if issubclass(kind, dict):
        return {key: value for one in found for key, value in one.items()}
    items = [item for one in found for item in one]
    return tuple(items) if issubclass(kind, tuple) else items
