"""What runs on the server: pushed there as text through Flame itself, kept in memory, named by the hash of its text.

Standard library only, syntax of Python 3.6, no work at import; nothing of the host changes for longer than a session.
Begin at handle.py, the whole interface; flame_kernel/README.md has the rooms and their order.
"""
