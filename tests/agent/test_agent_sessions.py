"""Sessions that outlive their clients, seen by the agent's own ops, against stock servers old and new."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import farside
import psutil
import pytest
from farside import FlameServer, LiveApp, wait_until
from rawagent import RawAgent, raw_agent

from flame_kernel.errors import AgentError, FlameError
from flame_kernel.session.bootstrap import agent_name

MARK = re.compile(r"\[(\d+) bytes of output dropped here: ")

# What a server has of ours; nothing of it may stay behind a session.
THINGS = (
    "(lambda sys, threading, os: {"
    "'threads': sorted(t.name for t in threading.enumerate() if t.name.startswith('flame-')),"
    "'modules': sorted(n for n in sys.modules if n.startswith('flame_session')),"
    "'files': sorted(p for p in (os.path.realpath('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd'))"
    " if 'deleted' in p or p.startswith('/tmp')),"
    "})(*map(__import__, ('sys', 'threading', 'os')))"
)


@contextmanager
def far_side(place: str, python: str | None = None) -> Iterator[FlameServer | LiveApp]:
    """A server whose sessions run in that place by themselves."""
    found = [one for one in farside.pythons() if python is None or one.name == python]
    server = (FlameServer if place == "child" else LiveApp)(found[-1])
    try:
        yield server
    finally:
        server.stop()


def everywhere(test: Callable[..., None]) -> Callable[..., None]:
    """In a child on the oldest Python, in the process on the newest that has no IPython."""
    cases = [("child", farside.pythons()[0].name), ("process", farside.pythons()[-2].name)]
    return pytest.mark.parametrize(("place", "python"), cases)(test)


def code_of(error: pytest.ExceptionInfo[AgentError]) -> str:
    return error.value.code


def set_attached(agent: RawAgent, seconds: float) -> None:
    """How long a client that says nothing counts as there."""
    agent.execute(f"__import__('sys').modules['{agent_name()}.log.log'].ATTACHED = {seconds}")


# -- coming back -----------------------------------------------------------------------------------------------------


@everywhere
def test_a_session_goes_on_without_its_client_and_its_output_is_there_for_the_next(place: str, python: str) -> None:
    with far_side(place, python) as server, raw_agent(server.location) as first:
        assert first.open(notebook="plan.ipynb")["fresh"]
        first.run("x = 'kept'")
        first.poll()
        cell = first.submit("import time\nfor i in range(200):\n    print(i)\n    time.sleep(0.005)\nprint(x)")
        wait_until(lambda: first.poll(wait=1) and "20\n" in first.output(cell), "it prints")
        first.op("detach", epoch=first.epoch)
        with pytest.raises(AgentError) as error:
            first.poll()
        assert code_of(error) == "taken_over"
        with raw_agent(server.location, client="the second") as second:
            opened = second.open("must")
            assert not opened["fresh"]
            assert [(c["request"], c["code"].partition("\n")[0]) for c in opened["running"]] == [(cell, "import time")]
            assert opened["ready"]["place"] == place
            second.wait_for("execute_reply", cell)
            both = first.output(cell) + second.output(cell)
            # What the first had read and not acknowledged comes again; by its number it is told apart.
            numbers = {e["number"]: e for e in first.events + second.events}
            assert sorted(numbers) == list(range(1, len(numbers) + 1))
            text = "".join(numbers[n]["content"].get("text", "") for n in sorted(numbers))
            assert text == "".join(f"{i}\n" for i in range(200)) + "kept\n"
            assert len(both) >= len(text)


@everywhere
def test_an_orphaned_session_ends_at_its_time_and_leaves_nothing(place: str, python: str) -> None:
    with far_side(place, python) as server, raw_agent(server.location) as warm, raw_agent(server.location) as agent:
        warm.session = "warm"
        warm.open()
        warm.run("import subprocess")
        warm.op("close")
        wait_until(lambda: not warm.evaluate(THINGS)["threads"], "the first session's threads end")
        before = warm.evaluate(THINGS)
        agent.open(linger=1.0, journal=1 << 16)
        cell = agent.submit(
            # In the process a thread cannot be ended, only a loop in it; and what the app starts is the app's.
            ("import subprocess; p = subprocess.Popen(['sleep', '100'])\n" if place == "child" else "")
            + "import time\nfor _ in range(200): print('x' * 10000)\nwhile True: time.sleep(0.01)"
        )
        agent.op("detach", epoch=agent.epoch)
        wait_until(lambda: agent.listed(), "it lives")
        began = time.monotonic()
        assert agent.listed()["idle_left"] <= 1.0  # type: ignore[index]
        wait_until(lambda: agent.listed() is None, "it ends")
        assert time.monotonic() - began < 10
        with pytest.raises(AgentError, match=r"it was ended after 1 s without a client, [0-9]+ s ago") as error:
            agent.submit("1", request=cell)
        assert code_of(error) == "no_session"
        wait_until(lambda: warm.evaluate(THINGS) == before, "all is as it was")
        if place == "child":
            wait_until(lambda: not server.children(), "its processes end")


@everywhere
def test_a_journal_holds_what_is_printed_alone_up_to_its_cap(place: str, python: str) -> None:
    """Memory stays small, head and tail are there, the mark is exact."""
    megabytes, cap = 50, 8 << 20
    with far_side(place, python) as server, raw_agent(server.location) as agent:
        agent.open(journal=cap)
        agent.run("import time")
        family = [psutil.Process(server.pid), *server.children()]
        before = sum(process.memory_info().rss for process in family)
        line = "l" * 1023
        cell = agent.submit(f"line = {line!r}\nfor i in range({megabytes} * 1024): print(line)\nprint('end')")
        agent.op("detach", epoch=agent.epoch)
        peak = [0]

        def is_over() -> bool:
            peak[0] = max(peak[0], sum(process.memory_info().rss for process in family))
            return bool(agent.listed()["state"] == "idle")  # type: ignore[index]

        wait_until(is_over, "the cell ends with nobody there", 60)
        assert peak[0] - before < 2 * cap + (8 << 20)
        waiting = agent.listed()["waiting"]  # type: ignore[index]
        assert cap - (1 << 20) < waiting <= cap + (1 << 20)
        agent.open()
        agent.wait_for("execute_reply", cell)
        shown = [e["content"] for e in agent.events if e["type"] == "stream" and e["request"] == cell]
        (at,) = [n for n, c in enumerate(shown) if c["name"] == "stderr"]
        head, tail = ("".join(c["text"] for c in part) for part in (shown[:at], shown[at + 1 :]))
        match = MARK.match(shown[at]["text"])
        assert match is not None
        assert int(match.group(1)) + len(head) + len(tail) == megabytes * (1 << 20) + 4
        assert head.startswith(line + "\n")
        assert tail.endswith(line + "\nend\n")
        assert min(len(head), len(tail)) > cap // 4


@pytest.mark.parametrize("place", ["child", "process"])
def test_a_cell_can_be_made_to_wait_for_its_reader_instead(place: str) -> None:
    with far_side(place) as server, raw_agent(server.location) as agent:
        agent.open(journal=1 << 20, when_full="block")
        agent.run("import sys, os")
        cell = agent.submit("for i in range(20000): print(str(i).rjust(500))")
        agent.op("detach", epoch=agent.epoch)
        wait_until(lambda: agent.listed()["waiting"] >= 1 << 20, "it is full")  # type: ignore[index]
        time.sleep(0.2)  # nothing to wait for: that nothing happens is the point
        listed = agent.listed()
        assert listed is not None
        assert listed["state"] == "busy"
        assert listed["waiting"] < 2 << 20
        agent.open()
        agent.wait_for("execute_reply", cell)
        assert agent.output(cell).split() == [str(i) for i in range(20000)]


@pytest.mark.parametrize("place", ["child", "process"])
@pytest.mark.parametrize("alone", [False, True], ids=["read", "alone"])
def test_a_flood_can_be_stopped(place: str, alone: bool) -> None:
    """Within a second, whether somebody reads or not."""
    with far_side(place) as server, raw_agent(server.location) as agent:
        agent.open(journal=1 << 20)
        agent.run("1")
        cell = agent.submit("while True: print('flood')")
        with raw_agent(server.location, session="other") as other:
            other.session = "bench"
            wait_until(lambda: other.listed()["waiting"] > 1 << 19, "it floods")  # type: ignore[index]
            if alone:
                agent.op("detach", epoch=agent.epoch)
                agent.open()
            began = time.monotonic()
            agent.op("interrupt", request=cell)
            wait_until(lambda: other.listed()["state"] == "idle", "it stops", 5)  # type: ignore[index]
            assert time.monotonic() - began < 10
            other.session = "other"
        assert agent.wait_for("execute_reply", cell)["content"]["ename"] == "KeyboardInterrupt"


def test_a_flood_that_nobody_reads_disturbs_no_other_session() -> None:
    """A round trip of another session."""
    with far_side("child") as server, raw_agent(server.location) as flooding, raw_agent(server.location) as other:
        flooding.open(journal=1 << 20)
        flooding.submit("while True: print('flood' * 100)")
        flooding.op("detach", epoch=flooding.epoch)
        other.session = "other"
        other.open()
        other.run("1")
        times = []
        for _ in range(100):
            began = time.monotonic()
            other.op("poll", epoch=other.epoch, ack=other.inbox.ack, wait=0)
            times.append(time.monotonic() - began)
        assert sorted(times)[95] < 0.1


# -- two clients -----------------------------------------------------------------------------------------------------


def test_a_session_in_use_is_taken_with_consent_only(flame_server: Callable[..., FlameServer]) -> None:
    location = flame_server().location
    with raw_agent(location, client="anna, plan.ipynb") as anna, raw_agent(location, client="ben") as ben:
        anna.open()
        anna.run("x = 1")
        for attach in (None, "take", "must"):
            with pytest.raises(AgentError, match=r"in use by anna, plan.ipynb, since 20\d\d-.* UTC") as error:
                ben.open(attach)
            assert code_of(error) == "in_use"
        assert anna.run("x") == "1"
        # Refused.
        asked = ben.op("ask", client=ben.client, client_id=ben.client_id)["asked"]
        assert ben.op("ask", client=ben.client, client_id=ben.client_id)["asked"] == asked  # a lost answer
        assert ben.op("asked", id=asked) == {"state": "waiting"}
        event = anna.wait_for("takeover_request")
        assert event["content"] == {"id": asked, "client": "ben"}
        assert anna.op("consent", epoch=anna.epoch, id=asked, allow=False) == {"done": True}
        assert anna.op("consent", epoch=anna.epoch, id=asked, allow=True) == {"done": False}
        assert ben.op("asked", id=asked) == {"state": "refused"}
        with pytest.raises(AgentError, match="in use by anna"):
            ben.open()
        # Granted, once, to nobody else.
        asked = ben.op("ask", client=ben.client, client_id=ben.client_id)["asked"]
        anna.op("consent", epoch=anna.epoch, id=asked, allow=True)
        assert ben.op("asked", id=asked) == {"state": "granted"}
        with raw_agent(location, client="carl") as carl:
            with pytest.raises(AgentError, match="in use by anna"):
                carl.open()
            ben.open("take")
            assert ben.run("x") == "1"
            with pytest.raises(AgentError) as error:
                anna.poll()
            assert code_of(error) == "taken_over"
            with pytest.raises(AgentError, match="in use by ben"):
                anna.open()
            with pytest.raises(AgentError) as error:
                anna.op("consent", epoch=anna.epoch, id=asked, allow=True)
            assert code_of(error) == "taken_over"
            # By force; the parked poll of the one before ends at once.
            ended: list[Any] = []

            def park() -> None:
                try:
                    while True:
                        ben.poll(wait=30)
                except AgentError as e:
                    ended.append(e.code)

            parked = threading.Thread(target=park, daemon=True)
            parked.start()
            carl.open("force")
            parked.join(5)
            assert ended == ["taken_over"]
            assert carl.run("x") == "1"


def test_nobody_has_to_consent_who_has_gone(flame_server: Callable[..., FlameServer]) -> None:
    location = flame_server().location
    with raw_agent(location) as first, raw_agent(location) as second, raw_agent(location) as third:
        first.open()
        asked = second.op("ask", client="second", client_id=second.client_id)["asked"]
        set_attached(first, 0.3)
        wait_until(lambda: second.op("asked", id=asked)["state"] == "granted", "it is granted", 5)
        second.open("must")
        # And a client that says it leaves has left.
        set_attached(first, 10.0)
        assert second.op("detach", epoch=second.epoch) == {"detached": True}
        assert second.op("detach", epoch=second.epoch) == {"detached": False}
        assert third.op("ask", client="third", client_id=third.client_id)["asked"]
        third.open()


def test_a_client_may_open_again_what_is_its_own(flame_server: Callable[..., FlameServer]) -> None:
    """An answer to ``open`` may be lost."""
    with raw_agent(flame_server().location) as agent:
        assert agent.open()["epoch"] < agent.open()["epoch"]
        assert agent.run("6 * 7") == "42"


def test_what_is_not_there_is_not_made(flame_server: Callable[..., FlameServer]) -> None:
    with raw_agent(flame_server().location) as agent:
        with pytest.raises(AgentError, match=r"there is no session bench on this server$") as error:
            agent.open("must")
        assert code_of(error) == "no_session"
        for wrong in ({"journal": 5}, {"journal": "many"}, {"linger": -1}, {"when_full": "burst"}, {"attach": "steal"}):
            with pytest.raises(AgentError) as error:
                agent.open(**wrong)
            assert code_of(error) == "bad_request"
            assert next(iter(wrong)) in str(error.value)
        assert agent.op("sessions") == []
        assert agent.evaluate(THINGS)["threads"] == []


def test_a_question_to_the_user_waits_for_the_next_client(flame_server: Callable[..., FlameServer]) -> None:
    location = flame_server().location
    with raw_agent(location) as first, raw_agent(location) as second:
        first.open()
        cell = first.submit("input('name? ')")
        question = first.wait_for("input_request", cell)["content"]
        first.poll()
        first.op("detach", epoch=first.epoch)
        assert second.open()["inputs"] == [dict(question, request=cell)]
        assert second.op("answer", input_id=question["input_id"], value="anna") == {"taken": True}
        second.wait_for("execute_reply", cell)
        assert second.output(cell) == "'anna'"
        assert second.open()["inputs"] == []


@pytest.mark.parametrize("place", ["child", "process"])
def test_a_watcher_sees_what_runs_and_touches_nothing(place: str) -> None:
    with far_side(place) as server, raw_agent(server.location) as owner, raw_agent(server.location) as watcher:
        owner.open()
        owner.run("print('before')")
        cell = owner.submit("import time\nfor i in range(100):\n    print(i)\n    time.sleep(0.005)")
        wait_until(lambda: owner.poll(wait=1) and "9\n" in owner.output(cell), "it prints")
        seen: list[dict[str, Any]] = []
        after = None
        while not any(e["type"] == "execute_reply" for e in seen):
            found = watcher.op("watch", after=after, wait=1.0)
            assert found["skipped"] == 0
            seen += found["events"]
            after = seen[-1]["number"] if seen else found["newest"]
        assert {e["request"] for e in seen} == {cell}
        text = "".join(e["content"].get("text", "") for e in seen)
        assert text == "".join(f"{i}\n" for i in range(100))
        owner.wait_for("execute_reply", cell)
        assert owner.output(cell) == text
        assert watcher.op("watch", after=None, wait=0)["events"] == []


SLOW_TO_ITS_CELLS = """
import sys, threading, time
start = threading.Thread.start
def start_and_wait(thread):
    start(thread)
    if thread.name == "flame-receiver":
        time.sleep(0.5)
threading.Thread.start = start_and_wait
"""


def test_the_first_cell_runs_on_the_main_thread_of_a_child_that_is_slow_to_start(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_ITS_CELLS)
    server = FlameServer(farside.pythons()[-1], env={"PYTHONPATH": str(tmp_path)})
    try:
        with raw_agent(server.location) as agent:
            agent.open()
            agent.run("import threading; main = threading.current_thread() is threading.main_thread()")
            assert agent.run("main, get_ipython().execution_count") == "(True, 3)"
            assert [event["type"] for event in agent.events].count("ready") == 1
            # A task of the user's that cancels all others ends the loop's own one as well.
            agent.run("import asyncio\nfor task in asyncio.all_tasks(): task.get_loop().call_later(0.01, task.cancel)")
            assert agent.run("threading.current_thread() is threading.main_thread()") == "True"
    finally:
        server.stop()


# -- what is kept ----------------------------------------------------------------------------------------------------


@everywhere
def test_a_cell_can_be_shown_again(place: str, python: str) -> None:
    with far_side(place, python) as server, raw_agent(server.location) as agent:
        agent.open()
        for n in range(3):
            agent.run(f"print('cell {n}' * 10000); 'value {n}'")
        agent.submit("1 / 0")
        agent.wait_for("execute_reply", agent.events[-1]["request"])
        agent.wait_for("error")
        agent.poll()
        cells = wait_until(lambda: [c for c in agent.op("cells") if c["status"]][3:] and agent.op("cells"), "all ended")
        assert [(c["status"], c["complete"], c["count"]) for c in cells] == [
            ("ok", True, 1), ("ok", True, 2), ("ok", True, 3), ("error", True, 4),
        ]  # fmt: skip
        assert cells[1]["code"].startswith("print('cell 1'")
        again: list[dict[str, Any]] = []
        done = False
        while not done:
            after = again[-1]["number"] if again else 0
            part = agent.op("replay", request=cells[1]["request"], after=after, limit=20000)
            again += part["events"]
            done = part["done"]
        output = [e for e in agent.events if e["request"] == cells[1]["request"] and e["type"] != "execute_reply"]
        assert again == output
        assert [e["type"] for e in agent.op("replay", request=cells[3]["request"])["events"]] == ["error"]


def test_sessions_are_listed_with_what_they_do(flame_server: Callable[..., FlameServer]) -> None:
    with raw_agent(flame_server().location) as agent:
        agent.open(notebook="plan.ipynb", linger=500)
        agent.wait_for("ready")
        listed = agent.listed()
        assert listed is not None
        assert listed["state"] == "idle"
        assert listed["place"] == "child"
        assert (listed["client"], listed["notebook"], listed["attached"]) == ("tester", "plan.ipynb", True)
        assert (listed["code"], listed["running_for"]) == ("", None)
        assert 490 < listed["idle_left"] <= 500
        assert abs(time.time() - listed["started"]) < 60
        cell = agent.submit("\nimport time\ntime.sleep(100)")
        agent.submit("queued = 1")
        listed = agent.listed()
        assert listed is not None
        assert (listed["state"], listed["code"]) == ("busy", "import time")
        assert 0 <= listed["running_for"] < 60
        agent.op("interrupt", request=cell)
        agent.wait_for("execute_reply", cell)
        psutil.Process(listed["pid"]).kill()
        wait_until(lambda: agent.listed()["state"] == "dead", "it is seen to be dead")  # type: ignore[index]
        assert agent.run("7") == "7"
        assert agent.op("kill") == {"closed": True}
        assert agent.listed() is None


# -- nothing twice ---------------------------------------------------------------------------------------------------


def test_an_old_message_sent_again_begins_nothing(flame_server: Callable[..., FlameServer]) -> None:
    """The request may have been forgotten, the client's count tells."""
    with raw_agent(flame_server().location) as agent:
        agent.open()
        agent.run("n = 0")
        request = {"kind": "execute", "id": "captured", "code": "n += 1"}
        number = agent.number()
        assert agent.op("submit", n=number, request=request) == {"new": True}
        assert agent.op("submit", request=request) == {"new": False}  # a client that had no answer
        registry = f"__import__('sys').modules['{agent_name()}.session.registry']"
        agent.execute(f"{registry}.sessions['bench']._repeated.__init__()")
        for n in (number, "client-9000", "nonsense", ""):
            with pytest.raises(AgentError) as error:
                agent.op("submit", n=n or "-", request=request)
            assert code_of(error) == "stale"
        assert agent.run("n") == "1"


def test_a_stop_that_is_said_again_is_the_same_stop() -> None:
    """The second Stop of a cell that hangs in a call abandons it: an answer that was lost must not do that."""
    with far_side("process") as server, raw_agent(server.location) as agent:
        agent.open()
        cell = agent.submit("import time; print('begun'); time.sleep(8); print('not abandoned')")
        wait_until(lambda: agent.poll(wait=1) and "begun" in agent.output(cell), "it runs")
        assert agent.op("interrupt", request=cell, id="one") == {"done": "raised"}
        wait_until(lambda: agent.poll(wait=1) and "A second Stop" in agent.output(cell), "it is said to hang")
        assert agent.op("interrupt", request=cell, id="one") == {"done": "raised"}
        assert agent.op("interrupt", request=cell, id="two") == {"done": "abandoned"}
        assert agent.wait_for("execute_reply", cell)["content"]["status"] == "error"


# -- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", [farside.pythons()[0].name, farside.pythons()[-2].name])
def test_every_connection_is_watched_for_a_client_that_vanishes(python: str) -> None:
    with far_side("child", python) as server, raw_agent(server.location) as agent:
        options = (
            "(lambda s, k: [k.getsockopt(s.SOL_SOCKET, s.SO_KEEPALIVE), k.getsockopt(s.IPPROTO_TCP, s.TCP_NODELAY)] + "
            "[k.getsockopt(s.IPPROTO_TCP, o) for o in (s.TCP_KEEPIDLE, s.TCP_KEEPINTVL, s.TCP_KEEPCNT, 18)])"
            "(__import__('socket'), __import__('Pyro4.core').core.current_context.client.sock)"
        )
        assert agent.evaluate(options) == [1, 1, 15, 5, 4, 40000]


def test_clients_that_are_dropped_hold_no_thread() -> None:
    """A hundred of them, each in the middle of a poll; neither their connections nor their sessions stay."""
    with far_side("process") as server, raw_agent(server.location) as agent:
        agent.open()
        agent.run("1")
        agent.execute(f"__import__('sys').modules['{agent_name()}.log.log'].LOOK_AROUND = 0.5")  # the figure is 5 s
        base = server.thread_count() + 2  # the server's own pool keeps one or two more, for a while

        def is_as_before() -> bool:
            return len(agent.op("sessions")) == 1 and server.thread_count() <= base

        for group in range(5):
            agents = [RawAgent(server.location, session=f"dropped-{group}-{n}") for n in range(20)]
            threads = [threading.Thread(target=_poll_until_dropped, args=(one,), daemon=True) for one in agents]
            for thread in threads:
                thread.start()
            for one in agents:
                wait_until(lambda one=one: one.events, "it has polled")  # type: ignore[misc]
                one.link.abort()
            for one, thread in zip(agents, threads, strict=True):
                thread.join(10)
                one.close()
            wait_until(is_as_before, "sessions and threads are as before")


def _poll_until_dropped(agent: RawAgent) -> None:
    with contextlib.suppress(FlameError):
        agent.open(linger=0.5)
        while True:
            agent.poll(wait=20)


def test_a_multiplex_server_is_never_held(flame_server: Callable[..., FlameServer]) -> None:
    """Polls do not park there, and neither a flood nor a session that begins stops another's calls for long."""
    server = flame_server(servertype="multiplex")
    with raw_agent(server.location) as one, raw_agent(server.location) as two:
        one.open()
        one.run("1")
        two.session = "two"
        began = time.monotonic()
        assert one.poll(wait=20) == []
        assert one.op("watch", after=None, wait=20)["events"] == []
        assert time.monotonic() - began < 5
        took: list[float] = []
        over = threading.Event()

        def measure() -> None:
            while not over.is_set():
                began = time.monotonic()
                one.op("hello")
                took.append(time.monotonic() - began)

        thread = threading.Thread(target=measure, daemon=True)
        thread.start()
        two.open()
        two.run("for i in range(20000): print(i)")
        over.set()
        thread.join(10)
        assert sorted(took)[len(took) * 95 // 100] < 1.0


def test_a_session_is_small(live_app: Callable[..., LiveApp]) -> None:
    """On the far side, with some output and some cells."""
    app = live_app()
    agents = [RawAgent(app.location, session=f"s{n}") for n in range(11)]
    try:
        agents[0].open()
        agents[0].run("1")
        before = psutil.Process(app.pid).memory_info().rss
        for agent in agents[1:]:
            agent.open()
            for n in range(10):
                agent.run(f"print('some output\\n' * 100); {n}")
            agent.poll()
        each = (psutil.Process(app.pid).memory_info().rss - before) / 10
        assert each < 3 << 20
    finally:
        for agent in agents:
            agent.op("close")
            agent.close()


@pytest.mark.parametrize("place", ["child", "process"])
def test_a_cell_that_is_stopped_before_its_session_is_up_does_not_run(place: str) -> None:
    with far_side(place) as server, raw_agent(server.location) as agent:
        agent.open(shell="auto")
        cells = [agent.submit("print('it runs')"), agent.submit("2 * 3")]
        done = agent.op("interrupt", request=cells[0])["done"]
        reply = agent.wait_for("execute_reply", cells[0])["content"]
        assert agent.wait_for("execute_reply", cells[1])["content"]["status"] == "ok"
        assert agent.output(cells[1]) == "6"
        assert done in ("cancelled", "signalled")
        assert (reply["ename"], agent.output(cells[0])) == ("KeyboardInterrupt", "")
        assert not [e for e in agent.events if e["type"] == "died"]


def test_a_shell_in_the_servers_process_waits_a_moment_for_the_first_request() -> None:
    """A session that is left at once makes none; a request comes before the moment is over."""
    with far_side("process") as server, raw_agent(server.location) as warm, raw_agent(server.location) as agent:
        warm.session = "warm"
        warm.open()
        warm.run("1")
        before = warm.evaluate(THINGS)
        warm.execute(f"__import__('sys').modules['{agent_name()}.session.lane'].LATE = 600.0")
        agent.open()
        agent.op("close")
        wait_until(lambda: warm.evaluate(THINGS) == before, "its end")
        agent.open()
        assert agent.poll(wait=0.2) == []
        cell = agent.submit("6 * 7")
        agent.wait_for("execute_reply", cell)
        assert agent.events[0]["type"] == "ready"
