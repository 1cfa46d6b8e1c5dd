"""``jupyter flame dask``: a Dask cluster on hosts that Flame reaches, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from jupyter_core.paths import jupyter_runtime_dir

from ...cluster.commands import about, configuration, make
from ...commands.reaching import CLUSTER
from ...errors import FlameError
from ...security import private_files
from ...terminal import plain_text
from ..connecting import Connecting, ending
from ..parser import Parser


class Dask(Connecting):
    """Runs a cluster until Ctrl-C."""

    title = "dask"
    word: ClassVar[bool] = True
    session: ClassVar[str] = ""
    several: ClassVar[str] = ", a group, several with commas, furnace*4"
    about = """
        Make a Dask cluster of several servers, and keep it until Ctrl-C: workers start there, the scheduler here. It
        prints the scheduler's address, its dashboard, and a file of dask's configuration that only you can read: with
        it, `Client()` of any program of yours is a client of this cluster.

        Workers survive an outage, and a host that was lost gets its worker again. You trust the hosts of your cluster:
        dask opens their pickles. In a notebook it is %flame dask, or `from flame import FlameCluster`.
        """
    typed = """
        jupyter flame dask web --workers 8
        jupyter flame dask furnace*2 --install --memory 4GiB
        DASK_CONFIG=~/.local/share/jupyter/runtime/flame-dask-4711.yaml python job.py
        """

    def arguments(self, parser: Parser) -> None:
        for option in CLUSTER:
            option.add_to(parser)
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        given, defaults = self.given()
        asking = threading.Lock()

        def ask(prompt: str, password: bool) -> str | None:
            with asking:  # several hosts are connected at once
                return self._ask(prompt, password)

        with ending(), warnings.catch_warnings():
            warnings.showwarning = _show
            settings = {**given, "defaults": defaults, "ask": ask}
            with (
                make(self.where, vars(options), settings) as cluster,
                self._file(configuration(cluster)) as path,
            ):
                print(f"scheduler {cluster.scheduler_address}\n{about(cluster)}")
                print(plain_text(f"client DASK_CONFIG={path} python …  (there, Client() is this cluster)"))
                print("Ctrl-C ends it", flush=True)
                while not cluster.over.wait(3600):
                    pass
        return 1

    @contextlib.contextmanager
    def _file(self, content: bytes) -> Iterator[Path]:
        """The file while the cluster runs. Raises FlameError if it cannot be written."""
        path = Path(jupyter_runtime_dir()) / f"flame-dask-{os.getpid()}.yaml"
        try:
            private_files.replace(path, content)
        except OSError as e:
            raise FlameError(f"cannot write {path}: {e.strerror}") from None
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _show(message: Warning | str, *more: object, **others: object) -> None:
    """In place of `warnings.showwarning`: the sentence alone."""
    print(plain_text(f"Warning: {message}"), file=sys.stderr)
