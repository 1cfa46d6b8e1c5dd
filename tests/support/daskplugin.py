"""pytest plugin: dask's own tests of SSHCluster and of SpecCluster get FlameCluster, on the stock server FLAME_YARD.

    FLAME_YARD=./u:/run/s python -m pytest -p daskplugin --noconftest -c /dev/null distributed/deploy/tests/test_ssh.py

The tests are in dask's repository and in Debian's source package, not in the source distribution; `tests/cluster/
test_dask_suites.py` fetches and runs them.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping
from typing import Any

sys.modules.setdefault("asyncssh", types.ModuleType("asyncssh"))  # asked for by the file, and not used here

import dask.distributed
import distributed.deploy.spec as spec
import distributed.deploy.ssh as ssh
from distributed import utils_test
from distributed.utils_test import cleanup, loop, loop_in_thread

from flame_kernel.cluster.cluster import FlameCluster
from flame_kernel.cluster.dask_processes import Worker

__all__ = ["cleanup", "loop", "loop_in_thread"]  # fixtures of the tests

YARD = os.environ["FLAME_YARD"]
# Dask's tests give a worker five seconds to find its scheduler, and a test thirty; this machine may be busy.
PATIENT = {"death_timeout": "60s"}
SECONDS = 200

Worker.remote_python = property(lambda self: self.host.facts["executable"])  # type: ignore[attr-defined]
Worker.kill = Worker.renew  # type: ignore[attr-defined]


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


class AsSpecCluster(FlameCluster):
    """FlameCluster for a specification of processes: workers with the same options, each in a process there.

    A class of the test's own is not known there: dask's class from which it comes stands for it.
    """

    def __init__(
        self,
        workers: Mapping[Any, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        worker: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self._specified = dict(workers or {})
        more.setdefault("quiet", True)
        super().__init__(
            YARD,
            n_workers=0,
            worker_class=_class((worker or {}).get("cls", "distributed.Worker")),
            worker_options=(worker or {}).get("options", {}),
            scheduler_options=(scheduler or {}).get("options", {}),
            network="direct",
            **more,
        )

    async def _prepare(self) -> None:
        await super()._prepare()
        (host,) = self.hosts
        for name, one in self._specified.items():
            options = self._options_for(host, 0)
            options |= {"worker_class": _class(one["cls"]), "kwargs": {**options["kwargs"], **one.get("options", {})}}
            self.worker_spec[name] = {"cls": Worker, "options": options}


def _class(asked: str | type) -> str:
    """The name of dask's class."""
    if isinstance(asked, str):
        return asked
    found = next(one for one in asked.__mro__ if one.__module__.startswith("distributed."))
    return f"{found.__module__}.{found.__qualname__}"


ssh.SSHCluster = AsSSHCluster
spec.SpecCluster = dask.distributed.SpecCluster = AsSpecCluster
utils_test.gen_test.__defaults__ = (SECONDS, *utils_test.gen_test.__defaults__[1:])
