"""Remote Flame: a Jupyter kernel on any remote Python process, through Pyro4's Flame."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .remote import Remote
    from .serve_app import Serving

__version__ = "0.1.0"


def connect(where: str | None = None, **options: Any) -> Remote:
    """A session on a Flame server, as an object; see ``flame_kernel.remote.connect``."""
    from .remote import connect

    return connect(where, **options)


def serve(daemon: Any = None, **options: Any) -> Serving:
    """Let notebooks into this process, by its own Pyro4 daemon or a new one; see ``flame_kernel.serve_app.serve``."""
    from .serve_app import serve

    return serve(daemon, **options)


def load_ipython_extension(ip: Any) -> None:
    """``%load_ext flame_kernel``."""
    from .magics import load_ipython_extension

    load_ipython_extension(ip)


def unload_ipython_extension(ip: Any) -> None:
    """``%unload_ext flame_kernel``: its connections end."""
    from .magics import unload_ipython_extension

    unload_ipython_extension(ip)
