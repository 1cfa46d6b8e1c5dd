"""A traceback shows the frames of the user and of libraries, and none of the agent's, wherever the error comes from.

One server for each Python, whose main thread can be had, and on it a session for each place and shell.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import farside
import pytest
from farside import wait_until
from main_app import MainApp, state
from rawagent import RawAgent, raw_agent

from flame_kernel.agent.session.monitor import stacks

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
    "inside": ("def outer():\n    inner()\ndef inner():\n    raise KeyError('x') from ValueError('cause')\nouter()",),
    "context": ("try:\n    failing()\nexcept ZeroDivisionError:\n    raise OSError('and then')",),
    "value": ("Bad()",),
    "display method": ("Shown()",),
    "display": ("display(Bad())",),
    "async cell": ("await failing_soon()",),
    "task that is awaited": ("task = asyncio.ensure_future(failing_soon())\nawait task",),
    "task that nobody awaits": ("asyncio.ensure_future(failing_soon()) and None\nawait asyncio.sleep(0.05)",),
    "callback of the loop": ("asyncio.get_event_loop().call_soon(failing)\nawait asyncio.sleep(0.05)",),
    "thread": ("thread = threading.Thread(target=failing)\nthread.start()\nthread.join()",),
    "class of a thread": (
        "class Mine(threading.Thread):\n    def run(self):\n        failing()",
        "thread = Mine()\nthread.start()\nthread.join()",
    ),
    "timer": ("thread = threading.Timer(0, failing)\nthread.start()\nthread.join()",),
    "pool": (
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as pool:\n"
        "    found = pool.submit(failing)\nfound.result()",
    ),
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
FAILED = re.compile("ZeroDivisionError|KeyError|OSError")

# A comm of the session's, whose callback fails. Its id is printed.
COMM = """
from comm import create_comm
comm = create_comm(target_name="tested")
comm.on_msg(failing)
print(comm.comm_id)
"""
# In IPython, a completer that fails.
COMPLETER = "get_ipython().set_hook('complete_command', failing, str_key='spoil')"


def text_of(events: list[dict[str, Any]]) -> str:
    """All that events say, without colours."""
    texts: list[str] = []
    for event in events:
        content = event["content"]
        texts += content.get("traceback") or []
        texts.append(json.dumps({name: one for name, one in content.items() if name != "traceback"}))
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(texts))


class Session:
    """One session, with what is asked of it: all at once, so that those of a server run beside each other."""

    def __init__(self, agent: RawAgent, place: str, shell: str, has_comm: bool, script: Path) -> None:
        self.name = f"{place} {shell}"
        self.agent = agent
        self.asked: dict[str, str] = {}  # the request in which each error is shown
        self.others: list[str] = []  # requests whose errors need not be shown
        agent.open(place=place, shell=shell)
        self.others.append(agent.submit(FIRST))
        if shell == "ipython":
            self.others.append(agent.submit(COMPLETER))
        for name, cells in CELLS.items():
            for cell in cells:
                self.asked[name] = agent.submit(cell.replace("SCRIPT", repr(str(script))))
        self.comm = agent.submit(COMM) if has_comm else None
        self.last = self.submit(kind="execute", code="pass", user_expressions={"value": "failing()"})
        self.asked["expression"] = self.last

    def submit(self, **request: Any) -> str:
        request_id = uuid.uuid4().hex
        self.agent.op("submit", request={"id": request_id, **request})
        return request_id

    def said(self, request: str) -> str:
        return text_of([event for event in self.agent.events if event["request"] == request])

    def finish(self) -> None:
        """Wait for the cells, then ask what is answered beside them."""
        self.agent.wait_for("execute_reply", self.last)
        for code in ("listed.val", "spoil x"):
            request = self.submit(kind="complete", code=code, cursor_pos=len(code))
            self.others.append(request)
            self.agent.wait_for("complete_reply", request)
        request = self.submit(kind="inspect", code="listed.value", cursor_pos=12, detail_level=1)
        self.agent.wait_for("inspect_reply", request)
        self.others.append(request)
        if self.comm is not None:
            (stream,) = [e for e in self.agent.events if e["request"] == self.comm and e["type"] == "stream"]
            content = {"comm_id": stream["content"]["text"].strip(), "data": {}}
            request = self.asked["callback of a comm"] = self.submit(kind="comm", msg_type="comm_msg", content=content)
            self.agent.wait_for("comm_reply", request)

    def check(self) -> None:
        silent = {name: self.said(one) for name, one in self.asked.items() if not FAILED.search(self.said(one))}
        assert not silent, f"{self.name}: no error in {silent}"
        told = {**self.asked, **{one: one for one in self.others}}
        ours = {name: self.said(one) for name, one in told.items() if "flame_agent" in self.said(one)}
        assert not ours, f"{self.name}: {list(ours)}\n" + "\n".join(ours.values())
        assert "flame_agent" not in text_of([event for event in self.agent.events if event["type"] != "ready"])


def test_no_frame_of_ours_is_shown(each_python: farside.Python, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def in_script():\n    return 1 / 0\nin_script()\n")
    shells = ("mini", "ipython") if each_python.ipython else ("mini",)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(farside.stopped(MainApp(each_python, "loop")))

        def begin(place: str, shell: str) -> Session:
            agent = stack.enter_context(raw_agent(server.location, f"{place}-{shell}"))
            has_comm = agent.evaluate("__import__('importlib.util').util.find_spec('comm') is not None")
            assert has_comm or not each_python.ipython
            return Session(agent, place, shell, has_comm, script)

        beside = [begin(place, shell) for place in ("process", "child") for shell in shells]
        for shell in shells:  # the main thread is had by one at a time
            one = begin("main", shell)
            one.finish()
            one.check()
            one.agent.op("close", epoch=one.agent.epoch)
            wait_until(lambda agent=one.agent: not state(agent)["events"], "the main thread's return")
        for one in beside:
            one.finish()
            one.check()


def test_a_cell_that_is_in_our_own_code_is_nowhere_in_particular(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Stop says of a cell that it has not ended: no name of ours."""
    ours, users = (
        SimpleNamespace(f_code=_frame_of_code(name), f_globals={"__name__": name})
        for name in ("flame_agent_0.session.program", "library")
    )
    host: Any = SimpleNamespace(namespace=SimpleNamespace())
    lane: Any = SimpleNamespace(thread_id=0)
    for frames, words in (([ours], "Python code"), ([users, ours], "library.f")):
        monkeypatch.setattr(stacks, "_of_lane", lambda *_, frames=frames: [(one, 1) for one in frames])
        assert stacks.call(host, lane) == words


def _frame_of_code(name: str) -> Any:
    return SimpleNamespace(co_name="f", co_filename=name)
