"""What runs a cell: IPython if it is installed, otherwise a mini shell of our own.

Knows no session: it is given a host.
Begin at mini.py or ipython.py.
"""
