"""Names of ipykernel that libraries import or look for, provided in a child: its shell, its stream class, its comms.

If ipykernel is not installed there, a stand-in for its package has these names.  If it is installed, only ``zmqshell``
is a stand-in, because the session's shell is ours; everything else comes from the installed package.  In both cases
``ipykernel`` is in ``sys.modules``, because many libraries look only for that.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import types

from ..output import comms, kernel_object, streams

VERSION = (7, 4, 0)


def plant(ip):
    """Provide the modules in this process, which is the session's own; ``ip`` is its IPython shell."""
    names = {"ZMQInteractiveShell": type(ip), "ZMQDisplayPublisher": type(ip.display_pub)}
    zmqshell = _Shell("ipykernel.zmqshell", names)
    sys.modules.setdefault(zmqshell.__name__, zmqshell)
    try:
        found = importlib.util.find_spec("ipykernel")
    except (ImportError, ValueError):  # a broken package of that name
        return
    if found is not None:
        installed = sys.modules.setdefault("ipykernel", _Installed(found))
        if "zmqshell" not in vars(installed):  # Python sets it only for a module that it loads itself
            installed.zmqshell = zmqshell
        return
    package = _module("ipykernel", __path__=[], __version__=".".join(map(str, VERSION)), version_info=VERSION)
    sys.modules[package.__name__] = package
    package.zmqshell = zmqshell
    _add(package, "iostream", OutStream=streams.OutStream)
    _add(package, "kernelbase", Kernel=kernel_object.Kernel)
    comm_class = comms.comm_class()
    if comm_class is not None:
        whole = _add(package, "comm", Comm=comm_class, __path__=[])
        _add(whole, "comm", Comm=comm_class)
        whole.Comm = comm_class


class _Installed(types.ModuleType):
    """The installed package. Its code runs only when one of its names is asked for, because it imports much."""

    def __init__(self, spec):
        types.ModuleType.__init__(self, spec.name)
        self.__spec__, self.__loader__, self.__package__ = spec, spec.loader, spec.name
        self.__path__, self.__file__ = spec.submodule_search_locations, spec.origin

    def __getattr__(self, name):
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        version = importlib.import_module(self.__name__ + "._version")  # what most ask for; it imports nothing
        if hasattr(version, name):
            return getattr(version, name)
        self.__class__ = types.ModuleType
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _Shell(types.ModuleType):
    """The stand-in for ``ipykernel.zmqshell``."""

    def __init__(self, name, names):
        types.ModuleType.__init__(self, name, _module.__doc__)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__dict__.update(names)

    def __getattr__(self, name):
        package = sys.modules.get("ipykernel")
        if name.startswith("__") or not getattr(package, "__path__", None):
            raise AttributeError(name)
        found = importlib.machinery.PathFinder.find_spec(self.__name__, package.__path__)
        if found is None:
            raise AttributeError(name)
        real = importlib.util.module_from_spec(found)
        found.loader.exec_module(real)
        for word, value in vars(real).items():
            self.__dict__.setdefault(word, value)
        return getattr(real, name)


def _add(package, name, **names):
    """Add a module to a package."""
    module = _module("%s.%s" % (package.__name__, name), **names)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    return module


def _module(name, **names):
    """A stand-in of Remote Flame's, for libraries that look for a notebook."""
    module = types.ModuleType(name, _module.__doc__)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package="__path__" in names)
    module.__dict__.update(names)
    return module
