"""What a cell shows: streams, figures, displays, comms, and the questions that it asks.

Knows no log: it is given what takes an event.
Begin at streams.py.
"""
