"""What crosses the link: messages, values, frames. Both sides import it.

Knows no session and no shell.
Begin at message.py, the codec of requests and events; values.py is that of objects.
"""
