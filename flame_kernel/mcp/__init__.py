"""Tools with which language-model agents use sessions (``jupyter flame mcp``): the Model Context Protocol, by its SDK.

Knows no notebook: tools answer with JSON, and what a server has sent is marked there as data.
Begin at tools.py; servers.py keeps the sessions, cells.py what runs in them.
"""
