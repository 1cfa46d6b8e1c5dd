"""``import flame``: a session as a Python object, with remote modules, objects and functions.

Knows no front end: output goes to this process's own streams.
Begin at remote.py; calls.py is how each is asked, proxy.py what stands here for an object there.
"""
