"""Pickles for a client that trusts this side; classes that the client sent as source are pickled by reference.

cloudpickle also pickles functions and classes of cells, as code of one minor version of Python, so it is used if both
sides have it and the same Python.  Unpickling is here too: the client owns this session anyway.
"""

import io
import pickle
import sys

from ..wire import values

PROTOCOL = 4


def pickler(client, classes):
    """The function that pickles for a client, given its own description of itself (from ``security.trust.offered``)."""
    client = client if isinstance(client, dict) else {}
    same = list(client.get("python", ())) == list(sys.version_info[:2])
    base, hint = _base(same, client)

    class Pickler(base):
        def persistent_id(self, one):
            key = classes.key(one) if isinstance(one, type) else None
            if key is None and isinstance(one, type) and base is pickle.Pickler and one.__module__ == "__main__":
                raise values.NotPlain("%s is a class of this session%s" % (one.__qualname__, hint))
            return key

    def dumps(value):
        file = io.BytesIO()
        try:
            Pickler(file, PROTOCOL).dump(value)
        except values.NotPlain:
            raise
        except Exception as e:  # pickling runs the user's code, which may raise anything; its text is reported
            more = hint if str(e).startswith("Can't") else ""  # pickle cannot find a function or class by its name
            raise values.NotPlain("a %s cannot be pickled: %s%s" % (values.class_name(type(value)), e, more))
        return file.getvalue()

    return dumps


def _base(same, client):
    """``(the pickler's class, a hint for values that it cannot pickle)``."""
    install = " (cloudpickle could send it, but is not installed %s)"
    if not same:
        told = ".".join(map(str, client.get("python", ()))) or "another one"
        return pickle.Pickler, " (cloudpickle could send it between equal Pythons: there %s, at the client %s)" % (
            "%d.%d" % sys.version_info[:2],
            told,
        )
    if not client.get("cloudpickle"):
        return pickle.Pickler, install % "at the client: python -m pip install cloudpickle"
    try:
        from cloudpickle import CloudPickler
    except ImportError:
        return pickle.Pickler, install % _how_to_get_it()
    return CloudPickler, ""


def opener(resolve):
    """The function that unpickles for the client; ``resolve`` returns the object with a pickle's persistent id."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name):
            return resolve(name)

    def loads(data):
        try:
            return Unpickler(io.BytesIO(data)).load()
        except ImportError as e:
            if getattr(e, "name", None) != "cloudpickle":
                raise
            raise values.BadValue("a pickle of cloudpickle, which is not installed %s" % _how_to_get_it())

    return loads


def _how_to_get_it():
    where = sys.executable or "python"
    return "there: %s -m pip install cloudpickle; without internet there: %%flame pip install cloudpickle" % where
