"""What runs a cell: IPython where it is there, a mini shell of our own where it is not.

Knows no session: it is given a host.
Begin at mini.py or ipython.py.
"""
