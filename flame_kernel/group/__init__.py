"""Many far sides at once: groups, what they answer, and work that is shared out among them.

Knows no front end: what a group says for people is text, HTML of our own making, and pictures that may be shown.
Begin at group.py; member.py is one far side of it, results.py and folding.py what comes back.
"""
