"""Ports and sockets of one side that are reached from the other one, through the link.
Knows no notebook and no command line; channels and pump are the agent's, both sides run them.
Begin at tunnel.py; forwards.py is what a user holds."""
