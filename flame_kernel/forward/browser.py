"""Finds the link to a forwarded port that works in the user's browser, which may not run on the notebook's machine.

With jupyter-server-proxy, Jupyter's server passes requests for ``/proxy/PORT/`` to ports of its machine. We find out
once whether it does: we send a request for a port of ours, and see whether it arrives.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import select
import socket
import time
import urllib.parse
import webbrowser
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir

from .forwards import Forward

# Seconds that Jupyter's server may take to answer.
PATIENCE = 3.0
_MOST = 65_536  # most bytes of the file that describes a server


def link(forward: Forward) -> str:
    """The link for the user's browser; empty for what no browser opens."""
    if isinstance(forward.listen, str) or forward.to is None:
        return "" if forward.to is not None else forward.url
    base = proxied()
    return f"{base}proxy/{forward.listen[1]}/" if base is not None else forward.url


def needs_a_browser_here(forward: Forward) -> bool:
    """Whether the link leads to this machine."""
    return bool(link(forward)) and forward.to is not None and proxied() is None


def open_link(forward: Forward) -> None:
    """Open it in this machine's browser."""
    if not forward.reverse and forward.url.startswith("http"):
        webbrowser.open(forward.url)


@functools.lru_cache(maxsize=1)
def proxied() -> str | None:
    """The path below which Jupyter's server, whose notebook this is, passes requests on; None if it does not."""
    server = _server()
    if server is None:  # JupyterHub tells where its servers are in another way, too
        server = {"base_url": os.environ.get("JUPYTERHUB_SERVICE_PREFIX", ""), "url": ""}
    base = str(server["base_url"])
    if not base.startswith("/") or not base.endswith("/"):
        return None
    heard = _passes_on(server)
    if heard is None:  # it cannot be asked, so we look at what is installed here
        heard = importlib.util.find_spec("jupyter_server_proxy") is not None
    return base if heard else None


def _server() -> dict[str, Any] | None:
    """The description that Jupyter's server has written of itself, if it has started this process."""
    parent = os.environ.get("JPY_PARENT_PID", "")
    if not parent.isdigit():
        return None
    path = Path(jupyter_runtime_dir()) / f"jpserver-{parent}.json"
    with contextlib.suppress(OSError, ValueError):
        with open(path, encoding="utf-8") as file:
            found = json.loads(file.read(_MOST))
        if isinstance(found, dict) and found.get("base_url") and found.get("url"):
            return found
    return None


def _passes_on(server: dict[str, Any]) -> bool | None:
    """Whether a request for a port of ours reaches us; None if the server cannot be asked."""
    url = urllib.parse.urlsplit(str(server["url"]))
    if url.scheme != "http" or not server.get("token") or not url.hostname:
        return None
    with contextlib.suppress(OSError, ValueError), socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        path = f"{server['base_url']}proxy/{listener.getsockname()[1]}/"
        with socket.create_connection((url.hostname, url.port or 80), PATIENCE) as asking:
            request = f"GET {path} HTTP/1.0\r\nHost: {url.netloc}\r\nAuthorization: token {server['token']}\r\n\r\n"
            asking.sendall(request.encode("ascii"))
            deadline = time.monotonic() + PATIENCE
            while (left := deadline - time.monotonic()) > 0:
                ready = select.select([listener, asking], [], [], left)[0]
                if listener in ready:
                    return True
                if asking in ready:
                    return False
    return None
