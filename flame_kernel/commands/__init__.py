"""What ``%flame`` and ``jupyter flame`` can do, whoever asks: options, status, doctor, monitor.

Knows no screen: it gives words and tables.
Begin at language.py, the table of commands.
"""
