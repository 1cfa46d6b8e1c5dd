"""The numbered log of a session: output, results and replies, kept until they are read.

Knows no shell and no link: it is written and polled.
Begin at log.py; journal.py is what it is kept in, dropping.py what happens when nobody reads.
"""
