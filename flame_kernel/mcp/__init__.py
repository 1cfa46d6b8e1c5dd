"""Tools for language-model agents over sessions: ``jupyter flame mcp``, by the SDK of the Model Context Protocol.

Knows no notebook: what a tool answers is JSON, in which all that a server has sent is marked as data.
Begin at tools.py; servers.py keeps the sessions, cells.py what runs in them.
"""
