"""Pickles, for a client that trusts this side: what it sent by its source is named in them.

cloudpickle takes functions and classes of cells along, as code of one minor version of Python: it is used where the
client has both.  What opens a pickle is here too, for the client owns this session anyway.
"""

import io
import pickle
import sys

from ..wire import values

PROTOCOL = 4


def pickler(client, classes):
    """What makes pickles for a client, by what it says of itself (``security.trust.offered`` of it)."""
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
        except Exception as e:  # pickling runs the user's code, which may raise anything; its text is told
            more = hint if str(e).startswith("Can't") else ""  # get, or pickle, a function or a class by its name
            raise values.NotPlain("a %s cannot be pickled: %s%s" % (values.class_name(type(value)), e, more))
        return file.getvalue()

    return dumps


def _base(same, client):
    """``(class of the pickler, what is told besides where it cannot pickle something)``."""
    install = " (cloudpickle would take it along, and is not installed %s)"
    if not same:
        told = ".".join(map(str, client.get("python", ()))) or "another one"
        return pickle.Pickler, " (cloudpickle takes it along between equal Pythons: there %s, at the client %s)" % (
            "%d.%d" % sys.version_info[:2],
            told,
        )
    if not client.get("cloudpickle"):
        return pickle.Pickler, install % "at the client: python -m pip install cloudpickle"
    try:
        from cloudpickle import CloudPickler
    except ImportError:
        return pickle.Pickler, install % ("there: %s -m pip install cloudpickle" % (sys.executable or "python"))
    return CloudPickler, ""


def opener(resolve):
    """What opens pickles of the client; ``resolve`` gives what one names."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name):
            return resolve(name)

    def loads(data):
        try:
            return Unpickler(io.BytesIO(data)).load()
        except ImportError as e:
            if getattr(e, "name", None) != "cloudpickle":
                raise
            where = sys.executable or "python"
            raise values.BadValue(
                "a pickle of cloudpickle, which is not installed there: %s -m pip install cloudpickle" % where
            )

    return loads
