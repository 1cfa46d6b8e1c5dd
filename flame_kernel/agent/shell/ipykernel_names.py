"""Names of ipykernel that libraries import or look for, provided in a child: its shell, its stream class, its comms.

If ipykernel is not installed there, a stand-in for its package has these names.  If it is installed, only ``zmqshell``
is a stand-in, because the session's shell is ours.
"""

import importlib.machinery
import importlib.util
import sys
import types

from ..output import comms, streams

VERSION = (7, 4, 0)


def plant(ip):
    """Provide the modules in this process, which is the session's own; ``ip`` is its IPython shell."""
    names = {"ZMQInteractiveShell": type(ip), "ZMQDisplayPublisher": type(ip.display_pub)}
    zmqshell = _module("ipykernel.zmqshell", **names)
    sys.modules.setdefault(zmqshell.__name__, zmqshell)
    try:
        if "ipykernel" in sys.modules or importlib.util.find_spec("ipykernel") is not None:
            return
    except (ImportError, ValueError):  # a broken package of that name
        return
    package = _module("ipykernel", __path__=[], __version__=".".join(map(str, VERSION)), version_info=VERSION)
    package.zmqshell = sys.modules[zmqshell.__name__]
    sys.modules[package.__name__] = package
    _add(package, "iostream", OutStream=streams.OutStream)
    _add(package, "kernelbase", Kernel=comms.Kernel)
    comm_class = comms.comm_class()
    if comm_class is not None:
        whole = _add(package, "comm", Comm=comm_class, __path__=[])
        _add(whole, "comm", Comm=comm_class)
        whole.Comm = comm_class


def bind():
    """At the start of a cell: attach the stand-in to ipykernel's package, which a cell may have imported meanwhile."""
    package, zmqshell = sys.modules.get("ipykernel"), sys.modules.get("ipykernel.zmqshell")
    if package is not None and zmqshell is not None and not hasattr(package, "zmqshell"):
        package.zmqshell = zmqshell


def _add(package, name, **names):
    """Add a module to a package."""
    module = _module("%s.%s" % (package.__name__, name), **names)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    return module


def _module(name, **names):
    module = types.ModuleType(name, "A stand-in of Remote Flame's, for libraries that look for a notebook.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package="__path__" in names)
    module.__dict__.update(names)
    return module
