"""Pickles between two sides that trust each other. This is the only file that unpickles anything.

Unpickling runs the program in the pickle, so it is done only if the user gave ``trust=True`` for the server.
cloudpickle includes functions and classes of cells as bytecode, which needs the same minor version of Python, so it is
used only if both sides have that.  Classes and functions that were sent by source are referred to by name in a pickle,
so that they are the same object on both sides.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

from ..errors import CannotTravel

# The pickle protocol that every server's Python reads.
PROTOCOL = 4

Named = Callable[[object], Any]


def offered() -> dict[str, Any]:
    """What we tell the far side about the pickles that can be read here."""
    return {"python": list(sys.version_info[:2]), "cloudpickle": importlib.util.find_spec("cloudpickle") is not None}


def pickler(python: Any, named: Named) -> Callable[[object], bytes]:
    """A function that pickles for a far side with Python version ``python``, such as [3, 11, 7]; raises CannotTravel.

    ``named`` returns the reference to pickle in place of a class, function or stand-in that the far side knows,
    or None.
    """
    same = isinstance(python, list) and python[:2] == list(sys.version_info[:2])
    base = _base() if same else pickle.Pickler

    class Pickler(base):  # type: ignore[misc, valid-type]
        def persistent_id(self, one: object) -> Any:
            return named(one)

    def dumps(value: object) -> bytes:
        file = io.BytesIO()
        try:
            Pickler(file, PROTOCOL).dump(value)
        except Exception as error:  # pickling runs the user's code, which may raise anything; our error has its text
            if isinstance(error, CannotTravel):
                raise
            advice = _hint(same, python) if str(error).startswith("Can't") else ""  # pickle found no name for something
            raise CannotTravel(f"a {type(value).__qualname__} cannot be pickled: {error}{advice}") from error
        return file.getvalue()

    return dumps


def _base() -> Any:
    try:
        from cloudpickle import CloudPickler  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        return pickle.Pickler
    return CloudPickler


def _hint(same: bool, python: Any) -> str:
    """Advice to add to an error: what would allow more to be pickled."""
    if not same:
        there = ".".join(map(str, python[:2])) if isinstance(python, list) else "of another version"
        here = "{}.{}".format(*sys.version_info)
        return f" (functions and classes without a source go between equal Pythons: here {here}, there {there})"
    if _base() is pickle.Pickler:
        return f" (cloudpickle takes more along: {sys.executable} -m pip install cloudpickle)"
    return ""


def opener(trusted: bool, named: Callable[[Any], Any] | None = None) -> Callable[[bytes], Any] | None:
    """A function that unpickles for a server that the user trusts, else None. ``named`` returns a class by its key."""
    if not trusted:
        return None

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name: Any) -> Any:
            found = None if named is None else named(name)
            if found is None:
                raise pickle.UnpicklingError("it names a class that no longer exists here")
            return found

    def loads(data: bytes) -> Any:
        try:
            return Unpickler(io.BytesIO(data)).load()
        except Exception as error:  # the pickle runs any code, which may raise anything
            raise CannotTravel(f"a pickle of the far side cannot be opened here: {error}{_needed(error)}") from error

    return loads


def _needed(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "cloudpickle":
        return f" (install it here: {sys.executable} -m pip install cloudpickle)"
    if isinstance(error, ModuleNotFoundError):
        return f"; have the module {error.name} here too, or fetch a plain part of it"
    if isinstance(error, AttributeError):  # the module here does not have that class
        return "; define it here too, or fetch a plain part of it"
    return ""
