"""What the library asks for: objects, functions, modules, files, large values.

Knows no cell.
Begin at objects.py.
"""
