"""``%load_ext flame``: ``%flame``, ``%%flame`` and Tab in a notebook that runs here.

Knows no socket: it has a `remote.Remote` for each connection.
Begin at extension.py; cells.py runs a cell, commands.py does everything else.
"""
