"""Packages for a far side without internet: chosen for it, fetched here by pip, sent through the link.
Knows no notebook and no command line; what happens there is in agent/remote/packages.py.
Begin at install.py."""
