"""Servers: the kernel's own, ``flame.serve``, ``jupyter flame serve``, ignite, certificates.

Knows no client: it starts what others connect to.
Begin at plan.py; embedded.py is the kernel's own server.
"""
