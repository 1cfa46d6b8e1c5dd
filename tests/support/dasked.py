"""Clusters of dask in tests: on far sides of their own, closed at the end, and what is global in dask made before."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
from distributed.diskutils import WorkSpace
from distributed.utils import _offload_executor
from farside import wait_until

from flame_kernel.cluster.cluster import FlameCluster

# Dask's own folder for temporary files, which a scheduler in this process makes, with its locks.
_workspace = WorkSpace(os.path.join(tempfile.gettempdir(), "dask-scratch-space"))
for _lock in ("global.lock", "purge.lock"):
    Path(_workspace.base_dir, _lock).touch()
# Dask's own thread for (de)serialization; it lives as long as the process, and belongs to no test.
_offload_executor.submit(int).result()
logging.getLogger("distributed").setLevel(logging.CRITICAL)

OPTIONS: dict[str, Any] = {"nthreads": 1, "memory_limit": "1 GiB"}
# Not at the usual port, which tests beside this one may want.
DASHBOARD = {"dashboard_address": "127.0.0.1:0"}


@contextlib.contextmanager
def cluster(*args: Any, **options: Any) -> Iterator[tuple[FlameCluster, distributed.Client]]:
    """A cluster and its client, when all workers are there."""
    options = {"quiet": True, "worker_options": OPTIONS, "scheduler_options": DASHBOARD, **options}
    with FlameCluster(*args, **options) as made, distributed.Client(made, set_as_default=False) as client:
        if made.worker_spec:
            client.wait_for_workers(len(made.worker_spec), timeout=60)
        yield made, client


def log(made: FlameCluster) -> str:
    """What the cluster has said."""
    return "\n".join(line for _, line in made._cluster_manager_logs)


def workers(client: distributed.Client) -> dict[str, Any]:
    """The workers that the scheduler knows, by address."""
    found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return found


def until_workers(client: distributed.Client, count: int) -> None:
    wait_until(lambda: len(workers(client)) == count, f"{count} workers", 60)


def slow() -> Callable[[int], tuple[int, int]]:
    """A task of a fifth of a second: its number, and where it ran. Made here, because workers have no such module."""
    import os
    import time

    def task(number: int) -> tuple[int, int]:
        time.sleep(0.2)
        return number, os.getpid()

    return task


def until_done(futures: list[Any], count: int) -> None:
    """Until so many of them have a result."""
    wait_until(lambda: sum(one.done() for one in futures) >= count, f"{count} results", 120)


def pass_time(seconds: float) -> None:
    """An outage of so many seconds: it is the length that is tried, not what happens meanwhile."""
    time.sleep(seconds)
