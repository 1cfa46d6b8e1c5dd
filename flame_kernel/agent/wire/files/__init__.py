"""Files and folders as they cross the link: their names checked, folders read, files written. Both sides import it.

Knows no message and no session: the callers on both sides say what is copied.
Begin at trees.py, which reads; receiving.py writes, file_names.py refuses names such as ``../x``.
"""
