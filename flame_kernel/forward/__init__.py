"""Makes ports and sockets of one side reachable from the other side, through the link.
Knows no notebook and no command line; channels and pump are the agent's, both sides run them.
Begin at tunnel.py; forwards.py has what a user works with."""
