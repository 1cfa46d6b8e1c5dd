"""A user's traceback shows the user's frames and the libraries', and none of the agent's: wherever the error comes from.

One server for each Python, whose main thread can be had, and a session for each place and shell.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farside
import pytest
from main_app import MainApp
from rawagent import RawAgent, raw_agent

# What every case may use.
FIRST = """
import asyncio, gc, logging, sys, threading, traceback
def failing(*args, **options):
    return 1 / 0
async def failing_soon():
    await asyncio.sleep(0)
    failing()
class Shown:
    def _repr_html_(self):
        return failing()
class Bad:
    def __repr__(self):
        return failing()
    def __del__(self):
        if self.__dict__.get("armed"):
            failing()
class Listed:
    @property
    def value(self):
        failing()
    def __dir__(self):
        failing()
listed = Listed()
"""

# By name: the cells of a case. In what the last one shows there is the error.
CELLS: dict[str, tuple[str, ...]] = {
    "cell": ("failing()",),
    "inside": ("def outer():\n    inner()\ndef inner():\n    raise KeyError('inner') from ValueError('cause')\nouter()",),
    "context": ("try:\n    failing()\nexcept ZeroDivisionError:\n    raise OSError('and then')",),
    "value": ("Bad()",),
    "display method": ("Shown()",),
    "display": ("display(Bad())",),
    "async cell": ("await failing_soon()",),
    "task that is awaited": ("task = asyncio.ensure_future(failing_soon())\nawait task",),
    "task that nobody awaits": (
        "task = asyncio.ensure_future(failing_soon())",
        "await asyncio.sleep(0.05)\ndel task\nx = gc.collect()",
    ),
    "callback of the loop": ("asyncio.get_event_loop().call_soon(failing)\nawait asyncio.sleep(0.05)",),
    "thread": ("thread = threading.Thread(target=failing)\nthread.start()\nthread.join()",),
    "class of a thread": (
        "class Mine(threading.Thread):\n    def run(self):\n        failing()\nthread = Mine()\nthread.start()\nthread.join()",
    ),
    "timer": ("thread = threading.Timer(0, failing)\nthread.start()\nthread.join()",),
    "pool": ("from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as pool:\n"
             "    found = pool.submit(failing)\nfound.result()",),
    "executor of the loop": ("await asyncio.get_event_loop().run_in_executor(None, failing)",),
    "finalizer": ("bad = Bad()\nbad.armed = True\ndel bad",),
    "hook": ("try:\n    failing()\nexcept ZeroDivisionError:\n    sys.excepthook(*sys.exc_info())",),
    "printed": ("try:\n    failing()\nexcept ZeroDivisionError:\n    traceback.print_exc()",),
    "logged": ("try:\n    failing()\nexcept ZeroDivisionError:\n    logging.exception('it failed')",),
    "timed": ("get_ipython().run_line_magic('time', 'failing()')",),
    "timed cell": ("get_ipython().run_cell_magic('time', '', 'failing()')",),
    "timed often": ("get_ipython().run_line_magic('timeit', '-n 1 -r 1 failing()')",),
    "script": ("get_ipython().run_line_magic('run', SCRIPT)",),
    "shown again": ("failing()", "get_ipython().run_line_magic('tb', '')"),
}
ENDS_IN = re.compile("ZeroDivisionError|KeyError|OSError")


def plain(events: list[dict[str, Any]]) -> str:
    """All that events say, as text without colours."""
    texts = []
    for event in events:
        content = event["content"]
        texts += content.get("traceback") or []
        texts.append(json.dumps({name: one for name, one in content.items() if name != "traceback"}))
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(texts))


def is_ours(text: str) -> bool:
    return "flame_agent" in text


@contextlib.contextmanager
def session(server: MainApp, place: str, shell: str) -> Iterator[RawAgent]:
    with raw_agent(server.location, f"{place}-{shell}") as agent:
        agent.open(place=place, shell=shell)
        agent.wait_for("ready")
        agent.events.clear()
        yield agent


def run(agent: RawAgent, cells: tuple[str, ...], script: Path) -> str:
    """What the cells of a case say."""
    for cell in cells:
        agent.submit(cell.replace("SCRIPT", repr(str(script))))
    return ""


@pytest.mark.parametrize("place", ["process", "child", "main"])
def test_no_frame_of_ours_is_shown(each_python: farside.Python, place: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def in_script():\n    return 1 / 0\nin_script()\n")
    shells = ["mini", "ipython"] if each_python.ipython else ["mini"]
    with farside.stopped(MainApp(each_python, "loop")) as server:
        for shell in shells:
            with session(server, place, shell) as agent:
                agent.submit(FIRST)
                requests = {}
                for name, cells in CELLS.items():
                    for cell in cells:
                        requests[name] = agent.submit(cell.replace("SCRIPT", repr(str(script))))
                agent.wait_for("execute_reply", requests[name])
                silent = [one for one, request in requests.items() if not ENDS_IN.search(of(agent, request))]
                assert silent == [], (shell, {one: of(agent, requests[one]) for one in silent})
                telling = {one: of(agent, request) for one, request in requests.items() if is_ours(of(agent, request))}
                assert list(telling) == [], (shell, "\n".join(telling.values()))
                assert not is_ours(plain(agent.events)), shell


def of(agent: RawAgent, request: str) -> str:
    return plain([event for event in agent.events if event["request"] == request])
