"""One session on one server: opening it, requests, events, reconnecting, leaving it.

Knows no front end: events go to a callback, replies are futures.
Begin at session.py; link.py is how it survives an outage.
"""
