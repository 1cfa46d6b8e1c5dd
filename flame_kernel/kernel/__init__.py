"""The Jupyter kernel: a front end's messages in, the far side's output out.

Knows no target's file and no link: it has sessions, and shows what they tell.
Begin at kernel.py; dispatch.py is the order in which messages are taken.
"""
