"""The first Tab is made ready where somebody edits, behind a cell; and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from farside import FlameServer, wait_until
from kernels import remote_flame
from places import ok

from flame_kernel.kernel import first_tab
from flame_kernel.kernel.first_tab import FirstTab

# A thread of the user's that tells when jedi is there.
WATCH = """
import sys, threading, time
def watch():
    while 'jedi.api' not in sys.modules:
        time.sleep(0.01)
    open({told!r}, 'w').close()
threading.Thread(target=watch, daemon=True).start()
"""


def test_jedi_is_loaded_behind_a_cell_where_somebody_edits(
    flame_server: Callable[..., FlameServer], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    with remote_flame(env={"FLAME_TARGET": flame_server().location}) as kernel:
        kernel.ask("comm_info_request", {"target_name": "jupyter.widget"})
        ok(kernel.execute(WATCH.format(told=str(told))))
        wait_until(told.exists, "jedi", 60)


class FarSession:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.gone: Exception | None = None
        self.asked: list[str] = []

    def complete(self, request_id: str, code: str, cursor_pos: int) -> None:
        self.asked.append(code[:cursor_pos])


@pytest.fixture
def no_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_tab, "QUIET", 0.0)


async def timers() -> None:
    """Until all that are due have come."""
    for _ in range(3):
        await asyncio.sleep(0)


def after(work: Callable[[FirstTab, Any], Coroutine[Any, Any, None]], sessions: int = 1) -> list[int]:
    """How often each of some sessions is asked, when all timers of ``work`` have come."""
    there = [FarSession() for _ in range(sessions)]

    async def run() -> None:
        await work(FirstTab(), there)
        await timers()

    asyncio.run(run())
    assert all(code == "import os\nos.path.jo" for one in there for code in one.asked)
    return [len(one.asked) for one in there]


@pytest.mark.parametrize("kind", sorted(first_tab.EDITING))
def test_once_for_each_session(kind: str, no_quiet: None) -> None:
    async def work(tab: FirstTab, there: list[Any]) -> None:
        tab.heard(kind)
        for session in (*there, *there):
            tab.cell_begins()
            tab.cell_ended(session)
            await timers()

    assert after(work, 2) == [1, 1]


def test_a_program_that_runs_a_notebook_needs_none(no_quiet: None) -> None:
    async def work(tab: FirstTab, there: list[Any]) -> None:
        for kind in ("kernel_info_request", "execute_request", "comm_msg", "shutdown_request"):
            tab.heard(kind)
        tab.cell_ended(there[0])

    assert after(work) == [0]


def test_not_while_the_next_cell_runs(no_quiet: None) -> None:
    async def work(tab: FirstTab, there: list[Any]) -> None:
        tab.heard("complete_request")
        tab.cell_ended(there[0])
        tab.cell_begins()

    assert after(work) == [0]


def test_not_of_a_session_that_is_gone_or_is_none(no_quiet: None) -> None:
    async def work(tab: FirstTab, there: list[Any]) -> None:
        tab.heard("complete_request")
        there[0].gone = OSError()
        tab.cell_ended(None)
        tab.cell_ended(there[0])

    assert after(work) == [0]
