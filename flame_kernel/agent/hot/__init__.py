"""Hot code: modules served from the client's disk when they are imported, and reloaded when they were edited.

Knows no session: it asks its host to put events into the log, and is told the client's answers.
Begin at finder.py; asking.py gets the files, reloading.py, patching.py and fixing.py change code in use.
"""
