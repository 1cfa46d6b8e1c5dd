"""Worker processes that a script starts by multiprocessing: each gets the script and the modules sent with it.

A worker made by ``fork`` has them already; one made by ``spawn`` or ``forkserver`` is told: see ``in_worker``.
"""

import importlib
import io
import json
import operator
import os
import pickle
import sys
import types

from .. import own, patches
from ..on_import import OnImport
from ..output import streams
from . import in_worker

_SPAWN = "multiprocessing.spawn"


class Workers:
    """Tells the workers of one script about it, until ``close``.

    host           the core of the session, whose namespace is the script's
    file, source   the script's name and text
    numbers        descriptors for the output of workers; none if 1 and 2 are the script's own
    """

    def __init__(self, host, file, source, numbers):
        self._host = host
        self._file = file
        self._source = source
        self._numbers = numbers if os.name != "nt" else ()
        self._layers = []
        self._hook = OnImport(_SPAWN.__eq__, self._tell)
        if sys.modules.get(_SPAWN) is not None:
            self._tell(sys.modules[_SPAWN])

    def __repr__(self):
        return "<Workers of %s>" % self._file

    def close(self):
        """Tell no more workers. Idempotent."""
        self._hook.remove()
        while self._layers:
            self._layers.pop().remove()

    def _tell(self, spawn):
        self._layers.append(patches.Layer(spawn, "get_preparation_data", self._preparing))
        if self._host.place.owns_process:
            return
        reduction = spawn.reduction
        if sys.version_info >= (3, 8):
            self._layers.append(patches.Layer(reduction.ForkingPickler, "reducer_override", self._overriding))
        else:
            self._layers.append(patches.Layer(reduction.ForkingPickler, "dumps", self._dumping))
            self._layers.append(patches.Layer(reduction, "dump", self._dumping_to))

    def _preparing(self, found):
        def get_preparation_data(name):
            data = found(name)
            if self._is_asked():
                in_worker.prepared(data, name, self._about(), self._numbers)
            return data

        return get_preparation_data

    def _is_asked(self):
        """Whether this thread runs code of the script's session; in the session's own process each does."""
        cell = streams.current()
        return self._host.place.owns_process or (cell is not None and cell.host is self._host)

    def _about(self):
        """What a worker is told."""
        package = sys.modules[own.PACKAGE]
        ours = json.loads(package.BUNDLE)
        ours["files"] = [one for one in ours["files"] if one[0] in in_worker.FILES]
        sent = [one.texts() for one in (self._host.modules, self._host.hot)]
        return {
            "loader": package.LOADER,
            "bundle": json.dumps(ours),
            "modules": [one for one in sent if one[1]],
            "file": self._file,
            "source": self._source,
            "name": "__mp_main__" if self._host.place.owns_process else self._host.place.namespace_name,
        }

    # In an app ``__main__`` is the app's own module: what a script defines there goes by the name of its session's
    # module, which workers have as well.

    def _reduced(self, thing):
        """How a pickle names a function or class of the script; NotImplemented for all else."""
        if isinstance(thing, (types.FunctionType, type)) and thing.__module__ == "__main__":
            name = thing.__qualname__
            try:
                mine = operator.attrgetter(name)(self._host.namespace)
            except AttributeError:
                mine = None
            if mine is thing:
                return operator.attrgetter(name), (_Module(self._host.place.namespace_name),)
        return NotImplemented

    def _overriding(self, found):
        def reducer_override(pickler, thing):
            reduced = self._reduced(thing)
            return reduced if reduced is not NotImplemented or found is patches.MISSING else found(pickler, thing)

        return reducer_override

    # Picklers of Python 3.6 and 3.7 have no ``reducer_override``: there the script's threads use one written in Python.

    def _dumping(self, found):
        def dumps(kind, thing, protocol=None):
            if not self._is_asked():
                return found.__get__(None, kind)(thing, protocol)
            written = io.BytesIO()
            _Pickler(written, protocol, self._reduced, kind(written).dispatch_table).dump(thing)
            return written.getbuffer()

        return classmethod(dumps)

    def _dumping_to(self, found):
        def dump(thing, file, protocol=None):
            if not self._is_asked():
                return found(thing, file, protocol)
            table = sys.modules[_SPAWN].reduction.ForkingPickler(file).dispatch_table
            return _Pickler(file, protocol, self._reduced, table).dump(thing)

        return dump


class _Pickler(pickle._Pickler):
    def __init__(self, file, protocol, reduced, table):
        pickle._Pickler.__init__(self, file, protocol)
        self.dispatch_table = table
        self._reduced = reduced

    def save(self, thing, save_persistent_id=True):
        reduced = NotImplemented if id(thing) in self.memo else self._reduced(thing)
        if reduced is NotImplemented:
            return pickle._Pickler.save(self, thing, save_persistent_id)
        return self.save_reduce(*reduced, obj=thing)


class _Module:
    """Is unpickled as the module of that name."""

    def __init__(self, name):
        self._name = name

    def __reduce__(self):
        return importlib.import_module, (self._name,)
