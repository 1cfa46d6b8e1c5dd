"""``import flame``: a remote Python process beside the local one; ``%load_ext flame``: the same by magics."""

from __future__ import annotations

from flame_kernel import load_ipython_extension, unload_ipython_extension
from flame_kernel.errors import (
    CannotConnect,
    CannotTravel,
    ConnectionLost,
    FlameError,
    GroupError,
    NotAnswered,
    ObjectGone,
    RemoteError,
    SessionGone,
    TargetError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_kernel.cluster.cluster import FlameCluster as FlameCluster
    from flame_kernel.group.opening import group
    from flame_kernel.remote.by_name import require
    from flame_kernel.remote.connect import connect, connect_old_python
    from flame_kernel.serve.in_app import serve

# Without FlameCluster, which needs dask: `from flame import *` works without it.
__all__ = [
    "CannotConnect",
    "CannotTravel",
    "ConnectionLost",
    "FlameError",
    "GroupError",
    "NotAnswered",
    "ObjectGone",
    "RemoteError",
    "SessionGone",
    "TargetError",
    "connect",
    "connect_old_python",
    "group",
    "load_ipython_extension",
    "require",
    "serve",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> Any:
    """Loaded when they are asked for: an app that serves needs no client, and neither needs a kernel."""
    if name == "connect":
        from flame_kernel.remote.connect import connect as found
    elif name == "connect_old_python":
        from flame_kernel.remote.connect import connect_old_python as found  # type: ignore[assignment]
    elif name == "group":
        from flame_kernel.group.opening import group as found  # type: ignore[assignment]
    elif name == "FlameCluster":
        from flame_kernel.cluster.loading import cluster_class

        found = cluster_class()  # type: ignore[assignment]
    elif name == "require":
        from flame_kernel.remote.by_name import require as found  # type: ignore[assignment]
    elif name == "serve":
        from flame_kernel.serve.in_app import serve as found  # type: ignore[assignment]
    else:
        raise AttributeError(f"module 'flame' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "FlameCluster"})
