"""Where cells may run, as a table for tests: in a child of a stock server or in a live app, with IPython or without.

with kernel_at("process-bare") as site:
    site.kernel.execute("1 + 1")
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import farside
from farside import FlameServer, LiveApp, Python
from kernels import Kernel, Run, remote_flame
from needs import missing

# "-bare": an interpreter that has no IPython; "-mini": one that has, and is not to use it.
PLACES = ("child", "process", "child-bare", "process-bare")


@dataclass(frozen=True)
class Site:
    """A kernel, and the process of the far side in which, or below which, its cells run."""

    kernel: Kernel
    server: FlameServer | LiveApp
    name: str

    @property
    def in_child(self) -> bool:
        return self.name.startswith("child")

    @property
    def has_ipython(self) -> bool:
        """Whether cells run on IPython's shell."""
        return "-" not in self.name

    @property
    def app(self) -> LiveApp:
        assert isinstance(self.server, LiveApp)
        return self.server


def python_for(name: str) -> Python:
    """The interpreter of a place: the tests' own, or the newest that has no IPython."""
    if not name.endswith("-bare"):
        return farside.pythons()[-1]
    bare = [python for python in farside.pythons() if not python.ipython]
    if not bare:
        missing("a Python without IPython (pyenv)")
    return bare[-1]


@contextlib.contextmanager
def server_at(name: str, python: Python | None = None, **options: Any) -> Iterator[FlameServer | LiveApp]:
    """The process of the far side for a place; it has a key, so that all it shows is shown."""
    kind = FlameServer if name.startswith("child") else LiveApp
    server = kind(python or python_for(name), **{"key": farside.random_key(), **options})
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def kernel_on(server: FlameServer | LiveApp, name: str, env: dict[str, str | None] | None = None) -> Iterator[Site]:
    """A kernel with its cells at ``server``."""
    environ: dict[str, str | None] = {**server.environ()}
    if name.endswith("-mini"):
        environ["FLAME_SHELL"] = "mini"
    with remote_flame({**environ, **(env or {})}) as kernel:
        kernel.execute("pass", silent=True)  # connected: what a test finds later is of its own making
        yield Site(kernel, server, name)


@contextlib.contextmanager
def kernel_at(name: str, **options: Any) -> Iterator[Site]:
    """A far side for a place, and a kernel on it."""
    with server_at(name, **options) as server, kernel_on(server, name) as site:
        yield site


def uncoloured(text: str) -> str:
    """Text without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def ok(run: Run) -> Run:
    """The same run, whose reply must be ok."""
    assert run.reply is not None
    assert run.reply["status"] == "ok", str(run)
    return run
