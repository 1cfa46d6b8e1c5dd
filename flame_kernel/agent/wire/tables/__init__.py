"""Arrays and tables: numpy, pandas, polars and Arrow, as buffers and their description. Both sides import it.

Knows no message; needs none of these libraries until it sees a value of theirs.
Begin at arrays.py, which asks each library's file in turn.
"""
