"""Versions of the agent in one process: the present one, and one of the form that was released before."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable

import farside
import flat_agent
import pytest
from farside import LiveApp, wait_until
from plain_app import KEY, PlainApp
from rawagent import RawAgent, raw_agent

from flame_kernel.agent import loader
from flame_kernel.serve import ignite
from flame_kernel.session.bootstrap import agent_name

# Text by every way that a session has for it.
SPEAK = """
import os, subprocess, sys, threading
def say():
    print(NAME, 'thread')
thread = threading.Thread(target=say); thread.start(); thread.join()
print(NAME, 'print'); sys.stderr.write(NAME + ' stderr\\n'); sys.stdout.buffer.write(NAME.encode() + b' bytes\\n')
if hasattr(os, 'fork'):
    pid = os.fork()
    if not pid:
        print(NAME, 'fork', flush=True); os._exit(0)
    os.waitpid(pid, 0)
subprocess.check_call(['echo', NAME, 'command'], stdout=sys.stdout)
sys.displayhook(NAME + ' value')
"""
SPOKEN = ("thread", "print", "bytes", "fork", "command")


def speak(agent: RawAgent, name: str) -> None:
    """A session's output is all there, and all its own."""
    before = len(agent.events)
    assert f"'{name} value'" in agent.run(SPEAK.replace("NAME", repr(name)))
    said = {"stdout": "", "stderr": ""}
    for event in agent.events[before:]:
        if event["type"] == "stream":
            said[event["content"]["name"]] += event["content"]["text"]
    assert said["stderr"] == f"{name} stderr\n"
    lines = sorted(said["stdout"].splitlines())
    assert lines == sorted(f"{name} {word}" for word in SPOKEN)
    request = agent.submit("import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\n1 / 0")
    agent.wait_for("execute_reply", request)
    shown = str([event["content"] for event in agent.events if event["request"] == request])
    assert "flame_agent" not in shown
    assert shown.count("ZeroDivisionError") >= 1


def ask(agent: RawAgent, name: str) -> None:
    """A session's question is put to its own owner."""
    request = agent.submit(f"print({name!r}, input('who? '))")
    question = agent.wait_for("input_request", request)["content"]
    agent.op("answer", epoch=agent.epoch, input_id=question["input_id"], value="me")
    agent.wait_for("execute_reply", request)
    assert f"{name} me" in agent.output(request)


@pytest.mark.parametrize("first_in", ["flat", "rooms"])
@pytest.mark.parametrize("first_out", ["flat", "rooms"])
@pytest.mark.parametrize("oldest", [True, False], ids=["oldest", "newest"])
def test_two_versions_side_by_side(
    live_app: Callable[..., LiveApp], first_in: str, first_out: str, oldest: bool
) -> None:
    bare = [python for python in farside.pythons() if not python.ipython]
    app = live_app(bare[0 if oldest else -1])
    with contextlib.ExitStack() as stack:
        agents = {}
        for name in sorted(("flat", "rooms"), key=lambda name: name != first_in):
            more = flat_agent.flat() if name == "flat" else {}
            agents[name] = stack.enter_context(raw_agent(app.location, name, **more))
            agents[name].open(place="process")
            agents[name].run("kept = 1")
        modules = [name for name in app.state()["planted"] if not name.startswith("flame_session_")]
        planted = {name.partition(".")[0] for name in modules}
        assert planted == {flat_agent.NAME, agent_name()}
        for name, agent in agents.items():
            speak(agent, name)
            ask(agent, name)
        app.say("of the app")
        app.say_in_thread("of its thread")
        other = next(name for name in agents if name != first_out)
        agents[first_out].op("close", epoch=agents[first_out].epoch)
        speak(agents[other], other)
        ask(agents[other], other)
        assert agents[other].run("kept") == "1"
        app.say("of the app again")
        agents[other].op("close", epoch=agents[other].epoch)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: app.state()["changed"] == [], "everything as it was found")
        assert app.state()["changed"] == []
    said = app.stdout_text()
    assert all(said.count(text + "\n") == 1 for text in ("of the app", "of its thread", "of the app again"))
    others = [line for line in said.splitlines() if not line.startswith(("app uri: ", "answer ", "of "))]
    assert others == [], "what sessions say is none of the app's output"


def test_a_child_of_the_flat_one() -> None:
    with (
        farside.stopped(farside.FlameServer(farside.pythons()[0])) as server,
        raw_agent(server.location, "flat", **flat_agent.flat()) as old,
        raw_agent(server.location, "rooms") as new,
    ):
        for agent in (old, new):
            agent.open(place="child")
            speak(agent, agent.session)


def test_what_is_put_out_ends_sessions_of_both() -> None:
    """Of an ignited process, each with a cell that runs."""
    bare = next(python for python in farside.pythons() if not python.pyro)
    with farside.stopped(PlainApp(bare, "app worker")) as app:
        before = app.ask("state()")
        location = f"127.0.0.1:{ignite.ignite(app.pid, KEY).port}"
        agents = [RawAgent(location, "rooms", key=KEY), RawAgent(location, "flat", key=KEY, **flat_agent.flat())]
        for agent in agents:
            agent.open(place="process")
            agent.submit("print('go')\nimport time\nwhile True: time.sleep(0.01)")
            agent.wait_for("stream")
        assert ignite.extinguish(app.pid) == []
        for agent in agents:
            agent.close()
        with contextlib.suppress(AssertionError):  # the thread that was ignited ends a moment later
            wait_until(lambda: app.ask("state()") == before, "all as before")
        assert app.ask("state()") == before
        assert app.ask("[name for name in __import__('linecache').cache if 'flame' in name]") == []


# -- loading -----------------------------------------------------------------------------------------------------------

LOADING = """
import json, linecache, marshal, sys
space = {}
exec(open(sys.argv[1]).read(), space)
NAME = "flame_agent_0123456789ab"
GOOD = [
    ["own", "x = 1\\ndef keep_references():\\n    global kept\\n    kept = True\\n"],
    ["room.first", "from .. import own\\ny = own.x + 1\\n"],
    ["room.inner.second", "from ..first import y\\ndef fails():\\n    return y / 0\\n"],
]
BAD = {
    "raises": "raise KeyError('no')\\n",
    "ends": "raise SystemExit\\n",
    "interrupted": "raise KeyboardInterrupt\\n",
    "no Python": "1 +\\n",
    "no sibling": "from . import missing\\n",
}

def boot(files):
    return space["boot"](json.dumps({"name": NAME, "files": files}), "the loader")

def left():
    return [name for name in list(sys.modules) + list(linecache.cache) if "flame" in name]

for why, source in BAD.items():
    for at in range(len(GOOD) + 1):
        try:
            boot(GOOD[:at] + [["room.third", source]] + GOOD[at:])
        except BaseException as e:
            assert not isinstance(e, AssertionError), e
        else:
            raise AssertionError(why)
        assert left() == [], (why, at, left())
package = boot(GOOD)
assert package.room.inner.second.y == 2 and package.own.kept and package.LOADER == "the loader"
assert boot(GOOD) is package and boot([["room.third", BAD["raises"]]]) is package
assert sorted(name[len(NAME):] for name in sys.modules if name.startswith(NAME)) == [
    "", ".own", ".room", ".room.first", ".room.inner", ".room.inner.second"]
assert linecache.getline("<%s/room/inner/second.py>" % NAME, 3) == "    return y / 0\\n"
# What was compiled of it makes another one, without its text being compiled again.
codes = dict(package.CODES)
for name in [name for name in sys.modules if name.startswith(NAME)]:
    del sys.modules[name]
text = json.dumps({"name": NAME, "files": [[short, "1 +"] for short, _ in GOOD]})
again = space["boot"](text, "the loader", marshal.loads(marshal.dumps(codes)))
assert again is not package and again.room.inner.second.y == 2
print("good")
"""


def test_an_agent_that_cannot_be_loaded_leaves_nothing(each_python: farside.Python) -> None:
    done = subprocess.run(
        [each_python.path, "-c", LOADING, loader.__file__], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("good\n", "")
