"""Makes a far side like PyPy in one thing: no exception can be raised in another thread."""

import ctypes
import platform

platform.python_implementation = lambda: "PyPy"
del ctypes.pythonapi
