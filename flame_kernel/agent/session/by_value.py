"""Lets cells send their functions and classes to worker processes, as joblib, dask and ray do.

In an app, the module of the cells is called ``flame_session_<id>``, which no worker can import. So we tell cloudpickle
to send what it holds as code, as it does for ``__main__``.
"""

import sys

from ..on_import import OnImport


class ByValue:
    """Tells every copy of cloudpickle in the process that the names of ``namespace`` go by value, until ``close``."""

    def __init__(self, namespace):
        self._namespace = namespace
        self._told = []
        for name, module in list(sys.modules.items()):
            if _is_cloudpickle(name):
                self._tell(module)
        self._hook = OnImport(_is_cloudpickle, self._tell)

    def _tell(self, module):
        register = getattr(module, "register_pickle_by_value", None)  # from 2.0 on
        if register is not None:
            register(self._namespace)
            self._told.append(module)

    def close(self):
        """Idempotent."""
        self._hook.remove()
        while self._told:
            try:
                self._told.pop().unregister_pickle_by_value(self._namespace)
            except ValueError:  # a cell has unregistered it already
                pass


def _is_cloudpickle(name):
    """Whether a module is cloudpickle, or a copy that a library brings along, as joblib and ray do."""
    return ("." + name).endswith(".cloudpickle.cloudpickle")
