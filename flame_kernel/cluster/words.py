"""What ``%flame dask`` and ``jupyter flame dask`` do: make a cluster, show it, and end it. Works without
dask.distributed, to say that it is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from ..commands import rails
from ..errors import FlameError
from ..terminal import plain_text
from .loading import cluster_class

if TYPE_CHECKING:
    from .cluster import FlameCluster

# The name of the client, where the line gives none.
CLIENT = "client"
# Settings of a connection that mean its session; the cluster's sessions are others.
_OF_SESSION = ("session", "place", "shell", "linger", "trust", "rich")


def make(hosts: str | None, asked: Mapping[str, Any], settings: Mapping[str, Any], **more: Any) -> FlameCluster:
    """The cluster that the options ``asked`` describe. Raises FlameError, TargetError."""
    workers = {"nthreads": asked.get("threads"), "memory_limit": asked.get("memory")}
    return cluster_class()(
        hosts,
        n_workers=asked.get("workers"),
        network=asked.get("network") or "auto",
        scheduler=asked.get("scheduler") or "here",
        install=bool(asked.get("install")),
        worker_options={name: value for name, value in workers.items() if value is not None},
        **{name: value for name, value in settings.items() if name not in _OF_SESSION},
        **more,
    )


class InNotebook:
    """The cluster of one notebook, which its client belongs to.

    names  the notebook's variables
    """

    def __init__(self, names: MutableMapping[str, Any]) -> None:
        self._names = names
        self._words: str | None = None  # the hosts, as they were named
        self._cluster: FlameCluster | None = None
        self._bound = ""
        self._client: Any = None

    def __repr__(self) -> str:
        return f"<InNotebook {self._words or 'no cluster'}>"

    @property
    def cluster(self) -> FlameCluster | None:
        """The cluster, as long as it runs."""
        made = self._cluster
        if made is not None and made.status.name in ("closed", "failed"):
            made = self._cluster = None
        return made

    def run(self, hosts: str | None, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
        """Make the cluster, or give the one that runs as many workers as are asked for; returns words about it."""
        name = asked.get("as") or CLIENT
        if not name.isidentifier():
            raise FlameError(f"{name!r} is not a variable name")
        cluster = self.cluster
        if cluster is not None and asked.get("target") not in (None, self._words):
            raise FlameError(f"the cluster of {self._words} runs; end it first: %flame dask --stop")
        if self._names.get(name) not in (None, self._client):
            raise FlameError(f"{name} is a variable of this notebook; give the client another name: --as NAME")
        if cluster is None:
            rails.refuse_command(rails.of_targets(_places(hosts)), "dask")
            cluster, self._words = make(hosts, asked, settings), hosts
            self._cluster = cluster
        elif asked.get("workers") is not None:
            cluster.scale(asked["workers"])
        self._client = self._names[name] = cluster.get_client()
        self._bound = name
        return f"{about(cluster)}\n{name} is its client; %flame dask --stop ends it"

    def stop(self) -> str:
        """End the cluster and its client; returns words about it. Raises FlameError if there is none."""
        cluster = self.cluster
        if cluster is None:
            raise FlameError("this notebook has no cluster; %flame dask makes one")
        client, self._client = self._client, None
        if client is not None:
            client.close()
        if self._names.get(self._bound) is client:
            del self._names[self._bound]
        cluster.close()
        self._cluster = None
        return "the cluster is closed"

    def close(self) -> None:
        """End it, if there is one."""
        if self.cluster is not None:
            self.stop()

    def show(self) -> None:
        """Show it as dask does in a notebook: with its widget, or a table."""
        if self._cluster is not None:
            self._cluster._ipython_display_()


def _places(hosts: str | None) -> list[str]:
    from .cluster import chosen

    return [one.where for one in chosen(hosts)]


def about(cluster: FlameCluster) -> str:
    """Words about it: how many workers, where, and the dashboard."""
    count = len(cluster.worker_spec)
    labels = [host.label for host in cluster.hosts]
    where = ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
    lines = [f"{count} worker{'' if count == 1 else 's'} on {where}; network {cluster.network}"]
    if cluster.dashboard_link:
        lines.append(f"dashboard {cluster.dashboard_link}")
    return plain_text("\n".join(lines))


# -- for dask's own tools


def configuration(cluster: FlameCluster) -> bytes:
    """A file of dask's configuration with which ``Client()`` is a client of this cluster. It has the key in it."""
    from .roles import of_client

    tls = of_client(cluster.security)
    found: dict[str, Any] = {"scheduler-address": cluster.scheduler_address}
    if tls is not None:
        client = {"cert": tls["tls_client_cert"], "key": tls["tls_client_key"]}
        encrypted = {"require-encryption": True, "tls": {"ca-file": tls["tls_ca_file"], "client": client}}
        found["distributed"] = {"comm": encrypted}
    return json.dumps(found, indent=1).encode("ascii") + b"\n"  # JSON is YAML
