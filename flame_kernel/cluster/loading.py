"""Imports FlameCluster when it is first used, if dask.distributed is installed here."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ..connect.installation import pip_install
from ..errors import TargetError

if TYPE_CHECKING:
    from .cluster import FlameCluster


def cluster_class() -> type[FlameCluster]:
    """The class FlameCluster; raises TargetError if dask.distributed is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise TargetError(
            f"FlameCluster needs dask.distributed, which is not installed here; run: {pip_install('dask')}"
        )
    from .cluster import FlameCluster

    return FlameCluster
