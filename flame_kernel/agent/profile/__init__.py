"""Where a process spends its time and its memory: stacks taken many times a second and counted, allocations, objects.

Knows no session: it is told whose frames are the user's, and when to stop.
Begin at sampler.py and memory.py; folded.py is what is sent of stacks.
"""
