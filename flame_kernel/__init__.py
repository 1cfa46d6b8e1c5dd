"""Remote Flame: a Jupyter kernel on any remote Python process, through Pyro4's Flame."""

__version__ = "0.1.0"
