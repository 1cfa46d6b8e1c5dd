"""Pickles, between two sides that trust each other: the only place here where one is opened.

Whoever opens a pickle runs the program in it.  So this is asked for only where the user said ``trust=True`` of the
server that it comes from.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from ..errors import CannotTravel

# What every server's Python reads.
PROTOCOL = 4


def dumps(value: object) -> bytes:
    """A pickle of ``value``, by cloudpickle where it is installed: that takes functions and classes of cells along."""
    try:
        from cloudpickle import dumps as make  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        make = pickle.dumps
    try:
        return bytes(make(value, PROTOCOL))
    except Exception as error:  # pickling runs the user's code, which may raise anything; its text is told
        raise CannotTravel(f"a {type(value).__qualname__} cannot be pickled: {error}") from error


def opener(trusted: bool) -> Callable[[bytes], Any] | None:
    """What opens pickles of a server that the user trusts; None for any other."""
    return _loads if trusted else None


def _loads(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # whatever the program in it raises
        raise CannotTravel(f"a pickle of the far side cannot be opened here: {error}") from error
