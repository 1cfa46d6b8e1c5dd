"""``unittest.main()`` and ``doctest.testmod()`` in a cell test what cells have defined.

Without arguments both take ``__main__``; in a live app that is the app, so they would find no test and say that all is
well.
"""

import functools
import sys

from ..on_import import OnImport
from ..output.streams import current
from ..patches import Layer


class MainTests:
    """The patches of both, for the cells of all sessions, from now on until ``close``."""

    def __init__(self):
        self._layers = []
        for module in filter(None, map(sys.modules.get, _PATCHES)):
            self._patch(module)
        self._hook = OnImport(_PATCHES.__contains__, self._patch)

    def _patch(self, module):
        self._layers.append(_PATCHES[module.__name__](module))

    def close(self):
        """Idempotent."""
        self._hook.remove()
        while self._layers:
            self._layers.pop().remove()


def _cells(otherwise):
    cell = current()
    return otherwise if cell is None else cell.host.namespace


def _testmod(below):
    @functools.wraps(below)
    def testmod(m=None, *args, **more):
        return below(_cells(m) if m is None else m, *args, **more)

    return testmod


def _program(below):
    @functools.wraps(below)
    def __init__(self, module="__main__", *args, **more):
        below(self, _cells(module) if module == "__main__" else module, *args, **more)

    return __init__


_PATCHES = {
    "doctest": lambda module: Layer(module, "testmod", _testmod),
    "unittest.main": lambda module: Layer(module.TestProgram, "__init__", _program),
}
