"""Where a process spends its time: its stacks, taken many times a second and counted.

Knows no session: it is told whose frames are the user's, and when to stop.
Begin at sampler.py; folded.py is what is sent.
"""
