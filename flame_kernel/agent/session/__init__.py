"""One session on the server: its lanes, its place (process, child or main), its end.

Knows no client but by requests.
Begin at session.py; core.py runs requests on lanes, the room child/ has them run in another process.
"""
