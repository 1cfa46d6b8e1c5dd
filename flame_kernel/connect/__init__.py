"""From what the user typed to a connection that speaks Pyro: targets, keys, ssh, TLS.

Knows no session: it sends one call and reads one answer.
Begin at target.py; connection.py is the link itself, pyro_message.py its bytes.
"""
