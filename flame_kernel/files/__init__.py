"""Files and folders to the far side and back: put, get, sync.

Knows no session: each transfer has a connection of its own.
Begin at transfer.py; far_files.py is what asks the far side.
"""
