"""Answers for ``jupyter flame doctor``: facts about this process, its Flame server and the machine. Changes nothing."""

import os
import shutil
import sys
import tempfile

from . import session
from .child import spare
from .monitor import gpus

# Packages that cells may want. Their versions are found without importing them.
PACKAGES = ("IPython", "matplotlib", "ipywidgets", "debugpy", "pyarrow", "cloudpickle", "dask")


def report():
    """``{python, implementation, pyro, workers, packages, folder, free, journal, gpus, spare}``.

    workers   [busy, maximum] of the pool that serves connections; None if there is no pool
    packages  name -> version, "" if it cannot be found, None if the package is not installed
    folder    the folder for output that nobody has read yet, "" if there is none; ``free``: bytes free there;
              ``journal``: the bytes of output that a session keeps by default
    spare     the process id of the one that is ready for the next child, or None
    """
    folder, free = _temp_folder()
    return {
        "python": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "pyro": _pyro("constants", "VERSION", ""),
        "workers": _workers(),
        "packages": {name: _version(name) for name in PACKAGES},
        "folder": folder,
        "free": free,
        "journal": session.JOURNAL,
        "gpus": gpus.gpus({os.getpid()}),
        "spare": spare.pid(),
    }


def _workers():
    """The state of the worker pool. The daemon that serves this call is in our call stack, and it knows the pool."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "handleRequest":
            pool = getattr(getattr(frame.f_locals.get("self"), "transportServer", None), "pool", None)
            if pool is not None:
                return [len(pool.busy), _pyro("configuration", "config", None).THREADPOOL_SIZE]
        frame = frame.f_back
    return None


def _pyro(module, name, default):
    return getattr(sys.modules.get("Pyro4." + module), name, default)


def _version(name):
    import importlib.util

    try:
        if importlib.util.find_spec(name) is None:
            return None
    except (ImportError, ValueError, AttributeError):  # a broken module of that name
        return None
    version = getattr(sys.modules.get(name), "__version__", None)
    if isinstance(version, str):
        return version
    try:
        from importlib import metadata

        return metadata.version(name)
    except Exception:  # Python 3.6 and 3.7 have no metadata; nor has a package that was just copied there
        return ""


def _temp_folder():
    try:
        folder = tempfile.gettempdir()
        return folder, shutil.disk_usage(folder).free
    except OSError:
        return "", 0
