"""Answers for ``jupyter flame doctor``: about this process, its Flame server and the machine. Nothing is changed."""

import shutil
import sys
import tempfile

from . import session

# What cells may want. Their versions are told without importing them.
PACKAGES = ("IPython", "matplotlib", "ipywidgets", "debugpy", "pyarrow")


def report():
    """``{python, implementation, pyro, workers, packages, folder, free, journal}``.

    workers   [busy, at most] of the pool that serves connections; None where there is no pool
    packages  by name: the version, "" where it cannot be told, None where there is none
    folder    where output waits that nobody has read, "" where there is none; ``free`` bytes; ``journal`` may be wanted
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
    }


def _workers():
    """Our caller's caller is the daemon that serves this call; it knows the pool."""
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
    except (ImportError, ValueError, AttributeError):  # a half-made module of that name
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
