"""``import flame``: a remote Python process beside the local one; ``%load_ext flame``: the same by magics."""

from flame_kernel import connect, load_ipython_extension, serve, unload_ipython_extension
from flame_kernel.errors import (
    CannotConnect,
    CannotTravel,
    ConnectionLost,
    FlameError,
    ObjectGone,
    RemoteError,
    SessionGone,
    TargetError,
)

__all__ = [
    "CannotConnect",
    "CannotTravel",
    "ConnectionLost",
    "FlameError",
    "ObjectGone",
    "RemoteError",
    "SessionGone",
    "TargetError",
    "connect",
    "load_ipython_extension",
    "serve",
    "unload_ipython_extension",
]
