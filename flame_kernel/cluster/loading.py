"""FlameCluster, if dask.distributed is installed here: it is imported when it is first asked for."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ..connect.installation import pip_install
from ..errors import TargetError

if TYPE_CHECKING:
    from .cluster import FlameCluster


def cluster_class() -> type[FlameCluster]:
    """The class; raises TargetError where dask.distributed is missing."""
    if importlib.util.find_spec("distributed") is None:
        raise TargetError(
            f"FlameCluster needs dask.distributed, which is not installed here; run: {pip_install('dask')}"
        )
    from .cluster import FlameCluster

    return FlameCluster
