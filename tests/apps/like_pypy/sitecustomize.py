"""Makes a far side like PyPy: no exception can be raised in another thread, and nothing tells of memory."""

import ctypes
import platform
import sys

platform.python_implementation = lambda: "PyPy"
del ctypes.pythonapi
sys.modules["_tracemalloc"] = None
