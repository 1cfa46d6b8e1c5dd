"""Many byte streams through one connection of the link: forwarded ports and sockets.
Knows no session and no notebook; both sides run the same channels and pump.
Begin at channels.py, which has no sockets; pump.py moves the bytes; far_end.py is the far side's part."""
