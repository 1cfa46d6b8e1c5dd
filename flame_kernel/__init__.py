"""Remote Flame: a Jupyter kernel on any remote Python process, through Pyro4's Flame; ``import flame`` is its door."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"


def load_ipython_extension(ip: Any) -> None:
    """``%load_ext flame_kernel``."""
    from .magics.extension import load_ipython_extension

    load_ipython_extension(ip)


def unload_ipython_extension(ip: Any) -> None:
    """``%unload_ext flame_kernel``: its connections end."""
    from .magics.extension import unload_ipython_extension

    unload_ipython_extension(ip)
