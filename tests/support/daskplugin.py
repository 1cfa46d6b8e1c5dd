"""pytest plugin: dask's own tests of SSHCluster get FlameCluster on the stock server FLAME_YARD in its place.

    FLAME_YARD=./u:/run/s python -m pytest -p daskplugin --noconftest -c /dev/null distributed/deploy/tests/test_ssh.py

Dask's source distribution has no tests; they are in its repository.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

sys.modules.setdefault("asyncssh", types.ModuleType("asyncssh"))  # asked for by the file, and not used here

import distributed.deploy.ssh as theirs
from distributed import utils_test

from flame_kernel.cluster.cluster import FlameCluster
from flame_kernel.cluster.dask_processes import Worker

YARD = os.environ["FLAME_YARD"]
# Dask's tests give a worker five seconds to find its scheduler, and a test thirty; this machine may be busy.
PATIENT = {"death_timeout": "60s"}
SECONDS = 200

Worker.remote_python = property(lambda self: self.host.facts["executable"])  # type: ignore[attr-defined]


class AsSSHCluster(FlameCluster):
    """FlameCluster as those tests make it: the first host is the scheduler's, each other one has a worker."""

    _supports_scaling = False

    def __init__(
        self,
        hosts: Any = None,
        connect_options: Any = None,
        worker_options: Any = None,
        scheduler_options: Any = None,
        remote_python: Any = None,
        **more: Any,
    ) -> None:
        if not hosts:
            raise ValueError("hosts")
        for given in (connect_options, remote_python):
            if isinstance(given, list) and len(given) != len(hosts):
                raise RuntimeError("as many as hosts")
        options = {**(worker_options or {}), **PATIENT}
        count = options.pop("n_workers", 1) * (len(hosts) - 1)
        scheduler = {"idle_timeout": "60s", **(scheduler_options or {})}
        if scheduler["idle_timeout"] == "5s":
            scheduler["idle_timeout"] = "60s"
        super().__init__(
            YARD,
            n_workers=count,
            worker_options=options,
            scheduler_options=scheduler,
            scheduler="first",
            name="FlameCluster as SSHCluster",
            quiet=True,
            **more,
        )


theirs.SSHCluster = AsSSHCluster
utils_test.gen_test.__defaults__ = (SECONDS, *utils_test.gen_test.__defaults__[1:])
