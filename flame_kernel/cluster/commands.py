"""What ``%flame dask`` and ``jupyter flame dask`` do: make a cluster, show it, and end it. Works without
dask.distributed, to say that it is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from ..commands import rails
from ..commands.options import settings
from ..errors import FlameError, TargetError
from ..terminal import plain_text
from .arguments import chosen
from .loading import cluster_class

if TYPE_CHECKING:
    from .cluster import FlameCluster

# The name of the client, where the line gives none.
CLIENT = "client"
# Options of a cluster that stay as they are as long as it runs.
_FIXED = ("network", "scheduler", "memory", "threads", "install")
# Settings of a connection that mean its session; the cluster's sessions are others.
_OF_SESSION = ("session", "place", "shell", "linger", "trust", "rich")


def make(hosts: str | None, asked: Mapping[str, Any], settings: Mapping[str, Any], **more: Any) -> FlameCluster:
    """The cluster that the options ``asked`` describe. Raises FlameError, TargetError."""
    _check(asked)
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


def _check(asked: Mapping[str, Any]) -> None:
    """Raise TargetError for numbers with which there is nothing to wait for."""
    for name in ("workers", "threads"):
        if asked.get(name) is not None and asked[name] < 1:
            raise TargetError(f"--{name} must be 1 or more, not {asked[name]}")


class InNotebook:
    """The cluster of one notebook, which its client belongs to.

    names  the notebook's variables
    """

    def __init__(self, names: MutableMapping[str, Any]) -> None:
        self._names = names
        self._words: str | None = None  # the hosts, as they were named
        self._asked: Mapping[str, Any] = {}  # the options that it was made with
        self._cluster: FlameCluster | None = None
        self._bound = ""
        self._client: Any = None

    def __repr__(self) -> str:
        return f"<InNotebook {self._words or 'no cluster'}>"

    @property
    def bound(self) -> str:
        """The name of its client."""
        return self._bound

    @property
    def cluster(self) -> FlameCluster | None:
        """The cluster, as long as it runs."""
        made = self._cluster
        if made is not None and made.over.is_set():  # perhaps by a client's ``shutdown``
            made.close()
            made = self._cluster = None
        return made

    def run(self, hosts: str | None, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
        """Make the cluster, or give the one that runs as many workers as are asked for; returns words about it."""
        _check(asked)
        name = asked.get("as") or CLIENT
        if not name.isidentifier():
            raise FlameError(f"{name!r} is not a variable name")
        cluster = self.cluster
        if cluster is not None and asked.get("target") not in (None, self._words):
            raise FlameError(f"the cluster of {self._words} runs; end it first: %flame dask --stop")
        for option in _FIXED if cluster is not None else ():
            if asked.get(option) not in (None, False, self._asked.get(option)):
                raise FlameError(f"the cluster runs, with another --{option}; end it first: %flame dask --stop")
        if self._names.get(name) not in (None, self._client):
            raise FlameError(f"{name} is a variable of this notebook; give the client another name: --as NAME")
        if cluster is None:
            rails.refuse_command(rails.of_targets(_places(hosts)), "dask")
            cluster, self._words, self._asked = make(hosts, asked, settings), hosts, dict(asked)
            self._cluster = cluster
        elif asked.get("workers") is not None:
            cluster.scale(asked["workers"])
        self._client = self._names[name] = cluster.get_client()
        self._bound = name
        return about(cluster)

    def stop(self) -> str:
        """End the cluster and its client; returns words about it. Raises FlameError if there is none."""
        cluster = self._cluster  # also one that has ended meanwhile: its client is still there
        if cluster is None:
            raise FlameError("this notebook has no cluster; %flame dask makes one")
        client, self._client = self._client, None
        if client is not None:
            client.close()
        for name in [name for name, value in self._names.items() if client is not None and value is client]:
            del self._names[name]
        cluster.close()
        self._cluster = None
        return "the cluster is closed"

    def close(self) -> None:
        """End it, if there is one."""
        if self._cluster is not None:
            self.stop()

    def show(self) -> None:
        """Show it as dask does in a notebook: with its widget, or a table."""
        if self._cluster is not None:
            self._cluster._ipython_display_()


def _places(hosts: str | None) -> list[str]:
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


# -- in a kernel


class InKernel(InNotebook):
    """The cluster of a Remote Flame kernel. It is in the process of ``%%local`` cells; ``told`` is for the kernel."""

    told: Mapping[str, Any] = {}

    def carry_out(self, asked: Mapping[str, Any]) -> None:
        """Carry out a line whose options are ``asked``."""
        try:
            self.told = self._told(asked)
        except FlameError as error:
            self.told = {"error": str(error)}

    def _told(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        if asked["stop"]:
            return {"words": self.stop()}
        words = self.run(asked["hosts"], asked, settings(asked))
        self.show()
        from .certs import of_client  # needs dask

        cluster = self.cluster
        assert cluster is not None
        host, _, port = cluster.scheduler_address.rpartition("://")[2].rpartition(":")
        tls = of_client(cluster.security)
        return {"words": words, "name": self.bound, "host": host.strip("[]"), "port": int(port), "tls": tls}


# The name of it among the names of ``%%local`` cells.
IN_KERNEL = "_flame_dask"


def in_kernel(names: MutableMapping[str, Any], asked: str) -> None:
    """Called in the process of ``%%local`` cells, whose names these are; ``asked`` is JSON."""
    names.setdefault(IN_KERNEL, InKernel(names)).carry_out(json.loads(asked))


def code_for(asked: Mapping[str, Any]) -> str:
    """The cell there that calls `in_kernel`."""
    return f"__import__({__name__!r}, fromlist=['in_kernel']).in_kernel(globals(), {json.dumps(asked)!r})"


# -- for dask's own tools


def configuration(cluster: FlameCluster) -> bytes:
    """A file of dask's configuration with which ``Client()`` is a client of this cluster. It has the key in it."""
    from .certs import of_client  # needs dask

    tls = of_client(cluster.security)
    found: dict[str, Any] = {"scheduler-address": cluster.scheduler_address}
    if tls is not None:
        client = {"cert": tls["tls_client_cert"], "key": tls["tls_client_key"]}
        encrypted = {"require-encryption": True, "tls": {"ca-file": tls["tls_ca_file"], "client": client}}
        found["distributed"] = {"comm": encrypted}
    return json.dumps(found, indent=1).encode("ascii") + b"\n"  # JSON is YAML
