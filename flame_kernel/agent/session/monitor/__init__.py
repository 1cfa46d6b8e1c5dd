"""What a session and its process are doing: stacks, CPU, memory, GPUs; told while cells run, and nothing is stopped.

Knows no client: it answers requests of the session's core, in the server or in a child.
Begin at monitor.py; top.py and usage.py have the figures, stacks.py shows where code is.
"""
