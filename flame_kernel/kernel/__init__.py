"""The Jupyter kernel: a front end's messages in, the far side's output out.

Knows no targets file and no link: it has sessions, and shows their events.
Begin at kernel.py; dispatch.py decides in which order messages are handled.
"""
