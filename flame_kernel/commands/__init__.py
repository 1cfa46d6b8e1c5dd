"""What ``%flame`` and ``jupyter flame`` have in common: commands, options, status, doctor, monitor.

Knows no screen: it returns text and tables.
Begin at language.py, the table of commands.
"""
