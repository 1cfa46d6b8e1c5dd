"""Finds out where a process spends its time (by sampling stacks) and its memory (allocations and objects).

Knows no session: it is told which frames are the user's, and when to stop.
Begin at sampler.py and memory.py; folded.py is the form in which stacks are sent.
"""
