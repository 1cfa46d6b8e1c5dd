"""Calls a function when a module is imported, for code that must not import it itself."""

import sys
import threading


class OnImport:
    """An import finder that finds nothing itself. It calls ``then(module)`` for each module that is imported from now
    on, if ``wanted(name)`` accepts its name. Call ``remove`` at the end."""

    def __init__(self, wanted, then):
        self._wanted = wanted
        self._then = then
        self._asking = set()  # the threads that are asking the other finders
        sys.meta_path.insert(0, self)

    def remove(self):
        """Idempotent."""
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(self, name, path=None, target=None):
        thread = threading.get_ident()
        if not self._wanted(name) or thread in self._asking:
            return None
        self._asking.add(thread)  # other finders may ask all finders, too
        try:
            finders = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
            spec = next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)
        finally:
            self._asking.discard(thread)
        execute = getattr(getattr(spec, "loader", None), "exec_module", None)
        if execute is not None:

            def exec_module(module):
                execute(module)
                self._then(module)

            spec.loader.exec_module = exec_module
        return spec
