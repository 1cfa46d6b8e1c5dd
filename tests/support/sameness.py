"""Whether two values are the very same: class by class, in order, to the sign of a zero."""

from __future__ import annotations

import array
import collections
import collections.abc
import math
import types
from typing import Any


def same(one: Any, other: Any) -> bool:
    """True where nobody could tell them apart, but for identity."""
    kind = type(one)
    if kind is not type(other):
        return False
    if kind is float:
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if kind is complex:
        return same(one.real, other.real) and same(one.imag, other.imag)
    if kind in (list, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if issubclass(kind, dict):
        facts = [getattr(value, "default_factory", None) for value in (one, other)]
        return facts[0] is facts[1] and same(list(one.items()), list(other.items()))
    if kind is collections.deque:
        return one.maxlen == other.maxlen and same(list(one), list(other))
    if kind is array.array:
        return bool(one.typecode == other.typecode and same(one.tolist(), other.tolist()))
    if kind is memoryview:
        facts = [(view.format, view.shape, view.readonly) for view in (one, other)]
        return facts[0] == facts[1] and same(one.tolist(), other.tolist())
    if kind is types.SimpleNamespace:
        return same(vars(one), vars(other))
    if kind in (types.MappingProxyType, collections.UserDict):
        return same(dict(one), dict(other))
    if issubclass(kind, (collections.abc.KeysView, collections.abc.ValuesView, collections.abc.ItemsView)):
        return same(list(one), list(other))
    if kind is collections.UserList:
        return same(one.data, other.data)
    if kind is collections.ChainMap:
        return same(one.maps, other.maps)
    if kind in (set, frozenset):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if kind is slice:
        return same((one.start, one.stop, one.step), (other.start, other.stop, other.step))
    module = kind.__module__.partition(".")[0]
    if kind.__name__ == "MaskedConstant":
        return one is other
    if module in ("numpy", "pandas", "pyarrow"):
        return _same_there(module, one, other)
    if kind.__name__ == "Decimal":
        return bool(one.as_tuple() == other.as_tuple())
    return bool(one == other) and (kind is int or repr(one) == repr(other))


def _same_there(module: str, one: Any, other: Any) -> bool:
    if module == "numpy":
        return _same_arrays(one, other)
    if module == "pyarrow":
        metadata = {"check_metadata": True} if hasattr(one, "schema") or hasattr(one, "metadata") else {}
        return bool(one.equals(other, **metadata))
    import pandas

    check = {"DataFrame": "frame", "Series": "series"}.get(type(one).__name__)
    if check is None and isinstance(one, pandas.Index):
        check = "index"
    if check is None and not isinstance(one, pandas.api.extensions.ExtensionArray):
        return one is other or (repr(one) == repr(other) and bool(one == other))
    exact = {"check_exact": True} | ({} if check in ("index", None) else {"check_freq": True})
    getattr(pandas.testing, f"assert_{check or 'extension_array'}_equal")(one, other, **exact)
    return True


def _same_arrays(one: Any, other: Any) -> bool:
    import numpy

    if one is numpy.ma.masked or isinstance(one, numpy.dtype):
        return one is other or bool(one == other and one.metadata == other.metadata)
    a, b = numpy.asarray(one), numpy.asarray(other)
    if a.dtype != b.dtype or a.shape != b.shape or not _same_bytes(a, b):
        return False
    both_whole = a.flags.forc and b.flags.forc
    return not both_whole or bool(a.flags.f_contiguous == b.flags.f_contiguous)


def _same_bytes(a: Any, b: Any) -> bool:
    """Of fields, not of what may lie between them; of objects, these."""
    if a.dtype.names is not None:
        return all(_same_bytes(a[name], b[name]) for name in a.dtype.names)
    if a.dtype.hasobject:
        return same(a.ravel().tolist(), b.ravel().tolist())
    return bool(a.tobytes() == b.tobytes())


def sharing(value: Any) -> list[int]:
    """The lists, tuples and dicts that are met in a value, each by the number that it had when it was met first."""
    known: dict[int, int] = {}
    met: list[int] = []

    def visit(one: Any) -> None:
        if type(one) not in (list, tuple, dict):
            return
        is_new = id(one) not in known
        met.append(known.setdefault(id(one), len(known)))
        if is_new:
            for inner in one.values() if type(one) is dict else one:
                visit(inner)

    visit(value)
    return met
