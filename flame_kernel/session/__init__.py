"""One session on one server: opened, asked, heard, healed, left.

Knows no front end: events go to a callback, replies are futures.
Begin at session.py; link.py is how it survives an outage.
"""
