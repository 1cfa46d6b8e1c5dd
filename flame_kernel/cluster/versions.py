"""Compares the versions of dask, and of what it uses, between this side and the hosts."""

from __future__ import annotations

from collections.abc import Sequence

from distributed.versions import get_package_info

from ..commands.tables import aligned
from .host import PACKAGES, Host


def differing(hosts: Sequence[Host]) -> str:
    """A table of packages whose version on some host differs from ours; empty if there are none."""
    here = get_package_info(PACKAGES)
    rows = []
    for name in PACKAGES:
        there = [host.facts["packages"][name] for host in hosts]
        optional = name in ("numpy", "pandas", "lz4") and here[name] is None
        if not optional and any(one != here[name] for one in there):
            rows.append([name, *(str(one or "–") for one in (here[name], *there))])
    if not rows:
        return ""
    return "\n".join(aligned([["package", "here", *(host.label for host in hosts)], *rows]))
