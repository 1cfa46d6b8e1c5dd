"""A session in a child process of the server: both ends of it, and what crosses between them.

Knows no client: requests and events pass through the server.
Begin at core.py, the server's end; main.py is the child's.
"""
