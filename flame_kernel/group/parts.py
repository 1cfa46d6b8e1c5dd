"""Splits a sequence into one part per host, and joins parts into one sequence."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from ..errors import FlameError
from . import folding


def parts(values: Any, hosts: Sequence[str]) -> list[Any]:
    """Split ``values`` into one part per host, in order; the lengths differ by at most one.

    Raises FlameError if there are fewer items than hosts.
    """
    if not hasattr(values, "__len__") or isinstance(values, (dict, set, frozenset)):
        raise FlameError(f"a {type(values).__name__} cannot be divided; make a list of it")
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


def joined(found: Sequence[Any]) -> Any:
    """Join parts in order: arrays to one array, frames to one frame, text to text, anything else to a list.

    Raises FlameError if the parts are of different kinds.
    """
    first = found[0]
    kinds = {type(one) for one in found}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise FlameError(f"the parts are of different kinds ({names}) and cannot be joined; pull them one by one")
    try:
        return _joined(found, type(first))
    except (TypeError, ValueError) as error:
        raise FlameError(f"the parts cannot be joined: {error}; pull them one by one") from None


def _joined(found: Sequence[Any], kind: type) -> Any:
    module = kind.__module__.partition(".")[0]
    if module == "numpy":
        return sys.modules["numpy"].concatenate(found)
    if module == "pandas":
        return sys.modules["pandas"].concat(found)
    if issubclass(kind, (str, bytes, bytearray)):
        return kind().join(found)
    if issubclass(kind, (set, frozenset)):
        return kind().union(*found)
    if issubclass(kind, dict):
        return {key: value for one in found for key, value in one.items()}
    items = [item for one in found for item in one]
    return tuple(items) if issubclass(kind, tuple) else items
