"""The program of a dask process on a host. ``given`` arrives on its stdin; it ends when stdin is closed.

spec       {name: {"cls": ..., "opts": {...}}}, as for dask's own `dask spec`
arguments  for the class, before the options: the scheduler's address
security   arguments of dask's Security, with certificates and keys as text; None: no TLS
config     dask's configuration, serialized
path       its sys.path; folder: where it may write, removed at the end
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from typing import Any

# Seconds that dask gets to close.
GRACE = 5.0


def main(given: Any) -> None:
    os.environ["DASK_INTERNAL_INHERIT_CONFIG"] = given["config"]
    sys.path[:] = given["path"]
    told = os.dup(1)
    os.dup2(2, 1)  # what tasks print goes to the log
    os.mkdir(given["folder"], 0o700)
    try:
        asyncio.run(_live(given, told))
    finally:
        shutil.rmtree(given["folder"], ignore_errors=True)


async def _live(given: Any, told: int) -> None:
    import dask.config
    from distributed.deploy.spec import run_spec
    from distributed.security import Security

    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    threading.Thread(target=_wait_for_end, args=(loop, ended, given["folder"]), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    for one in given["spec"].values():
        if given["security"] is not None:
            one["opts"]["security"] = Security(**given["security"])
    if dask.config.get("temporary-directory", None) is None:
        dask.config.set({"temporary-directory": given["folder"]})
    servers = await run_spec(given["spec"], *given["arguments"])
    addresses = [getattr(one, "worker_address", None) or one.address for one in servers.values()]
    os.write(told, json.dumps({"addresses": addresses}).encode("ascii") + b"\n")
    over: Any = asyncio.ensure_future(asyncio.gather(*(one.finished() for one in servers.values())))
    wanted: Any = asyncio.ensure_future(ended.wait())
    await asyncio.wait([over, wanted], return_when=asyncio.FIRST_COMPLETED)
    with contextlib.suppress(Exception):  # it may be closing already, or have lost its scheduler
        await asyncio.wait_for(asyncio.gather(*(one.close() for one in servers.values())), GRACE)
    over.cancel()
    wanted.cancel()


def _wait_for_end(loop: Any, ended: Any, folder: str) -> None:
    """Runs on a thread: when our starter closes stdin or is gone, close dask, then kill what is left."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has closed
        loop.call_soon_threadsafe(ended.set)
    threading.Event().wait(GRACE)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)
