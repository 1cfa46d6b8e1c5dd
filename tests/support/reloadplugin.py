"""A pytest plugin that runs IPython's own tests of autoreload, unmodified, over a link: the shell of a test is a
session, the folder of its modules is served to it, and its ``sys.modules`` are the session's.

    pytest -p reloadplugin tests/test_zzz_autoreload.py      with FLAME_YARD=host:port
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from types import ModuleType
from typing import Any

import pytest

import flame
from flame_kernel.errors import FlameError
from flame_kernel.hot.serving import Hot
from flame_kernel.remote.remote import Remote

_open: list[Remote] = []


class Names:
    """The names of a session, as a mapping."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def __getitem__(self, name: str) -> Any:
        return self._remote[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._remote[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self._remote

    def update(self, names: Mapping[str, Any]) -> None:
        self._remote.push(names)


class FarShell:
    """What a test has in place of its FakeShell."""

    def __init__(self) -> None:
        self._remote = flame.connect(os.environ["FLAME_YARD"], shell="mini")
        _open.append(self._remote)
        self._remote.write = self._write
        self._hot: Hot | None = None
        self._reloads = self._all = False
        self._wanted: set[str] = set()
        self._unwanted: set[str] = set()
        self.ns = self.user_ns = Names(self._remote)

    def _write(self, name: str, text: str) -> None:
        """Our sentence about a module that is not reloaded, in IPython's words."""
        text = re.sub(r"^(\S+) was edited but is not reloaded", r"[autoreload of \1 failed", text)
        getattr(sys, name).write(text)

    def _serve(self) -> None:
        if self._hot is None:
            try:
                self._hot = self._remote.hot(sys.path[0], reload=self._reloads)
            except FlameError:  # there is no module yet
                return

    def run_code(self, code: str) -> None:
        self._serve()
        self._remote.execute(code)

    def push(self, names: Mapping[str, Any]) -> None:
        self._remote.push(names)

    def magic_autoreload(self, parameter: str) -> None:
        self._all = parameter in ("", "2", "3")
        self._set(parameter != "0")

    def magic_aimport(self, parameter: str, stream: Any = None) -> None:
        """``%aimport``: we have one switch for all modules, and its lists are kept here."""
        self._serve()
        name = parameter.lstrip("-")
        if not name:
            listed = "all-except-skipped" if self._all else "\n".join(sorted(self._wanted))
            stream.write(f"Modules to reload:\n{listed}\n\nModules to skip:\n{' '.join(sorted(self._unwanted))}\n")
        elif parameter.startswith("-"):
            self._unwanted.add(name)
            self._set(False)
        else:
            self._wanted.add(name)
            self._set(True)
            self._remote.execute(f"import {name}")

    def _set(self, reloads: bool) -> None:
        self._reloads = reloads
        self._serve()
        if self._hot is not None:
            self._hot.set_reload(reloads)


class FarModules(MutableMapping[str, Any]):
    """``sys.modules``: those of the session for the modules of a test."""

    def __getitem__(self, name: str) -> Any:
        if not name.startswith("tmpmod_") or name in sys.modules:
            return sys.modules[name]
        return _open[-1].evaluate(f"__import__('sys').modules[{name!r}]", ref=True)

    def __setitem__(self, name: str, module: Any) -> None:
        sys.modules[name] = module

    def __delitem__(self, name: str) -> None:
        del sys.modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sys.modules)

    def __len__(self) -> int:
        return len(sys.modules)


class FarSys(ModuleType):
    """``sys``, with those modules."""

    modules = FarModules()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(sys, name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.getparent(pytest.Module).obj  # type: ignore[union-attr]
        if hasattr(module, "FakeShell"):
            module.FakeShell = FarShell
            module.sys = FarSys("sys")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()
