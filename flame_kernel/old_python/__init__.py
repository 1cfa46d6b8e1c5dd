"""A server whose Python is too old for the agent, such as 2.7: Flame's own calls, and nothing more.

Knows no session and no front end: each call stands alone, its output comes at its end.
Begin at calls.py; far_side.py is what runs there, objects.py what stands here for a module there.
"""
