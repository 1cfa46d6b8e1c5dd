"""Groups against stock servers in their own processes: asking all, results, errors, hosts that are not there, Stop."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import gc
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pandas
import pytest
from farside import FlameServer, Python, random_key, wait_until
from flakylink import FlakyLink

import flame
import flame_kernel.errors
from flame_kernel.connect.target import load_target
from flame_kernel.group.group import Group
from flame_kernel.group.results import told_errors
from flame_kernel.remote.remote import Remote
from flame_kernel.session.agent_client import AgentClient

HOSTS = ("web1", "web2", "web3")


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, locations: dict[str, str]) -> None:
    """A targets.toml of these, each a target, and all of them the group web."""
    text = "".join(f'[targets.{name}]\nlocation = "{where}"\n' for name, where in locations.items())
    members = ", ".join(f'"{name}"' for name in locations)
    path = folder / "targets.toml"
    path.touch(mode=0o600)
    path.write_text(f'default_group = "web"\n{text}[groups.web]\nmembers = [{members}]\n')
    monkeypatch.setenv("FLAME_CONFIG", str(path))


@pytest.fixture
def web(servers: dict[str, FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    written(tmp_path, monkeypatch, {name: one.location for name, one in servers.items()})
    with flame.group("web", place="process", shell="mini") as group:
        yield group


def test_nobody_is_connected_before_it_is_used(web: Group) -> None:
    assert repr(web) == "<Group of 3; not connected: web[1-3]>"
    assert web[1].evaluate("1 + 1") == 2
    assert repr(web) == "<Group of 3; not connected: web1, web3; idle: web2>"


def test_all_are_asked_and_answer_in_their_order(web: Group, servers: dict[str, FlameServer]) -> None:
    pids = web.evaluate("__import__('os').getpid()")
    assert list(pids) == list(HOSTS) == list(web.labels)
    assert [pids[name] for name in HOSTS] == [servers[name].pid for name in HOSTS]
    assert pids.ok == dict(pids)
    assert pids.errors == {}
    assert pids[0] == pids["web1"]
    assert web.modules.os.getpid() == pids
    assert web.modules.os.path.basename("a/b")["web2"] == "b"
    assert web.builtins.len("abc").fold() == [(3, HOSTS)]
    assert web.modules.sys.byteorder.fetch()["web1"] == __import__("sys").byteorder


def test_names_functions_parts(web: Group) -> None:
    web["x"] = 4
    web.push({"y": [1, 2]})
    assert web["x"].answers() == [4, 4, 4]
    assert web.pull(["x", "y"])["web3"] == {"x": 4, "y": [1, 2]}
    assert web.run(lambda a, b: a * b, 6, b=7).answers() == [42, 42, 42]
    web.scatter("part", list(range(8)))
    assert web["part"].answers() == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert web.gather("part") == list(range(8))
    web.execute("part = tuple(n * n for n in part)")
    assert web.gather("part") == tuple(n * n for n in range(8))
    with pytest.raises(flame.FlameError, match="2 items are too few for 3 hosts: web3 would get none"):
        web.scatter("part", [1, 2])
    for ask in (lambda: web.push({"a b": 1}), lambda: web.pull("a b"), lambda: web.scatter("a b", [1, 2, 3])):
        with pytest.raises(flame.TargetError, match="'a b' cannot be a name"):
            ask()
    with pytest.raises(flame.GroupError) as raised:
        web.pull("nothing")
    assert len(raised.value.lines) == 2, raised.value.lines


def test_arrays_and_frames_in_parts(web: Group) -> None:
    web.scatter("part", numpy.arange(10.0))
    assert numpy.array_equal(web.gather("part"), numpy.arange(10.0))
    frame = pandas.DataFrame({"a": range(7), "b": list("abcdefg")})
    web.scatter("part", frame)
    pandas.testing.assert_frame_equal(web.gather("part"), frame)


def test_members_by_name_number_and_slice(web: Group) -> None:
    assert web["web2"] is web[1]
    assert len(web) == 3
    assert "web2" in web
    assert "db" not in web
    some = web[1:]
    assert some.labels == ("web2", "web3")
    assert some["web2"] is web["web2"]
    some["only"] = 1
    assert "only" not in web["web1"]
    assert "only" in web["web3"]
    some.close()  # a part ends no session
    assert web.evaluate("1").answers() == [1, 1, 1]
    assert web.some(["web3", "web1", "web3"]).evaluate("2").ok == {"web3": 2, "web1": 2}
    with pytest.raises(flame.TargetError, match="db is not in this group"):
        web.some(["db"])


def test_what_is_printed_is_told_once(web: Group, capsys: pytest.CaptureFixture[str]) -> None:
    web.execute("print('hello')")
    text = capsys.readouterr().out
    assert text.count("hello") == 1
    assert "all 3 hosts: web[1-3]" in text
    web["name"] = "same"
    web["web2"]["name"] = "other"
    result = web.execute("print(name)")
    assert result.text == {"web1": "same\n", "web2": "other\n", "web3": "same\n"}
    assert "2 of 3 hosts: web1, web3" in capsys.readouterr().out


def test_a_cell_shows_all_it_shows(web: Group) -> None:
    results = web.cell("print('out'); import sys; print('err', file=sys.stderr); sys.byteorder")
    outputs = results.outputs
    assert {one.stdout.splitlines()[0] for one in outputs.values()} == {"out"}
    assert {one.stderr for one in outputs.values()} == {"err\n"}
    assert outputs["web1"].value == "'little'"
    assert repr(results).count("err") == 1
    assert all(one.seconds is not None for one in outputs.values())
    seen: list[tuple[str, str, str]] = []
    web.cell("print('x')", values={"n": 1}, on_text=lambda *one: seen.append(one))
    assert sorted(seen) == [(name, "stdout", "x\n") for name in HOSTS]
    assert web["n"].answers() == [1, 1, 1]


def test_those_that_fail_do_not_take_the_others_along(web: Group) -> None:
    web["n"] = 1
    web["web3"]["n"] = 0
    with pytest.raises(flame.GroupError, match="1 of 3 hosts failed; web3: ZeroDivisionError") as raised:
        web.evaluate("1 / n")
    error = raised.value
    assert list(error.errors) == ["web3"]
    assert isinstance(error.errors["web3"], ZeroDivisionError)
    assert error.results.ok == {"web1": 1.0, "web2": 1.0}
    assert error.results["web1"] == 1.0
    with pytest.raises(ZeroDivisionError):
        error.results["web3"]
    with pytest.raises(flame.GroupError) as raised:
        web.execute("1 / 0")
    shown = "\n".join(raised.value._render_traceback_())
    assert "3 of 3 hosts: web[1-3]" in shown
    assert shown.count("ZeroDivisionError: division by zero") == 1


def test_futures_are_watched(web: Group) -> None:
    web["web2"]["slow"] = True
    future = web.noblock.execute("import time\nif globals().get('slow'):\n    while True:\n        time.sleep(0.01)")
    wait_until(lambda: future.progress == 2, "two hosts are done")
    assert not future.done()
    assert future.pending == ("web2",)
    assert not future.wait(0.01)
    assert len(future) == 3
    assert future.results.ok.keys() == {"web1", "web3"}
    future.interrupt()
    with pytest.raises(flame.GroupError):
        future.result(20)
    assert future.done()
    assert future.progress == 3
    assert future.elapsed > 0
    assert dict(web.noblock.evaluate("3")) == dict.fromkeys(HOSTS, 3)
    assert web.noblock.evaluate("4").wait_interactive()


def test_stop_reaches_all_and_what_waits_does_not_begin(web: Group) -> None:
    running = web.noblock.execute("begun = True\nimport time\nwhile True:\n    time.sleep(0.01)")
    waiting = web.noblock.execute("later = True")
    wait_until(lambda: all(member.state == "busy" for member in web.members), "all are busy")
    waiting.interrupt()
    running.interrupt()
    assert running.wait(20)
    assert waiting.wait(20)
    assert web.evaluate("'later' in globals()").answers() == [False] * 3


def test_ctrl_c_stops_all(web: Group) -> None:
    web.evaluate("1")
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def press() -> None:
        wait_until(lambda: all(member.state == "busy" for member in web.members), "all are busy")
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            web.execute("import time\nwhile True:\n    time.sleep(0.01)")
    finally:
        presser.join()
        signal.signal(signal.SIGINT, before)
    wait_until(lambda: all(member.state == "idle" for member in web.members), "all have stopped")
    assert web.evaluate("2").answers() == [2, 2, 2]


def test_a_host_that_is_not_there_is_a_row(
    servers: dict[str, FlameServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written(tmp_path, monkeypatch, {"web1": servers["web1"].location, "dead": "127.0.0.1:9"})
    with flame.group(place="process", shell="mini") as group:
        results = group.evaluate("3")
        assert results.ok == {"web1": 3}
        assert list(results.unreachable) == ["dead"]
        assert not results.failed
        assert "not reachable: dead" in repr(results)
        assert "dead" in results._repr_html_()
        assert "[1 of 2 hosts do not answer: dead]" in capsys.readouterr().err
        with pytest.raises(flame.CannotConnect):
            results["dead"]
        with pytest.raises(flame.GroupError, match="1 of 2 hosts failed; dead"):
            results.answers()
    written(tmp_path, monkeypatch, {"dead": "127.0.0.1:9"})
    with flame.group() as group, pytest.raises(flame.GroupError, match="connection refused"):
        group.evaluate("3")


def test_one_host_of_several_has_another_key_or_an_old_python(
    flame_server: Callable[..., FlameServer], oldest_python: Python, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"NEW_KEY": random_key(), "OLD_KEY": random_key()}
    new, old = flame_server(key=keys["NEW_KEY"]), flame_server(oldest_python, key=keys["OLD_KEY"])
    for name, key in keys.items():
        monkeypatch.setenv(name, key)
    written(tmp_path, monkeypatch, {"new": new.location, "old": old.location})
    with flame.group("web", key="env:NEW_KEY", place="process", shell="mini") as group:
        results = group.evaluate("1")
        assert results.ok == {"new": 1}
        headline, words = told_errors(results.errors, len(results))
        assert headline.startswith("── not reachable: old ──")
        assert words.endswith(f"at {old.location}: wrong key for this server; check --key-file (key_file)")
    path = tmp_path / "targets.toml"
    for name, where in (("NEW_KEY", new.location), ("OLD_KEY", old.location)):
        path.write_text(path.read_text().replace(f'"{where}"', f'"{where}"\nkey = "env:{name}"'))
    with flame.group("web", place="process", shell="mini") as group:
        assert len(group.evaluate("__import__('sys').version_info[:2]").fold()) == 2
        assert group.run(lambda n: n + 1, 1).answers() == [2, 2]

        def newer(n: int) -> int:
            return (same := n) + same

        with pytest.raises(flame.GroupError, match=r"old: .* does not know the syntax of newer: ") as raised:
            group.run(newer, 1)
        assert raised.value.results.ok == {"new": 2}


def test_a_link_that_goes_silent_holds_nobody_up(
    servers: dict[str, FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FlakyLink(servers["web2"].location) as link:
        written(tmp_path, monkeypatch, {"web1": servers["web1"].location, "far": link.location})
        with flame.group(place="process", shell="mini", fast=True) as group:
            assert group.evaluate("1").answers() == [1, 1]
            group.patience = 0.2
            link.down()
            wait_until(lambda: group.members[1].state == "silent", "the cut is noticed")
            results = group.evaluate("2")
            assert results.ok == {"web1": 2}
            assert isinstance(results.errors["far"], flame.NotAnswered)
            link.up()
            wait_until(lambda: group.members[1].state == "idle", "the link is back")
            assert group.evaluate("3").answers() == [3, 3]


def test_a_session_that_is_lost_begins_anew_and_says_so(
    servers: dict[str, FlameServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written(tmp_path, monkeypatch, {name: servers[name].location for name in ("web1", "web2")})
    with flame.group("web", place="process", shell="mini") as group:
        group["x"] = 1
        with contextlib.closing(AgentClient(group["web2"].target)) as client:
            client.kill(group["web2"].session.session_id)
        wait_until(lambda: group.members[1].state == "lost", "the session is gone")
        assert group.evaluate("globals().get('x')").answers() == [1, None]
        assert "[web2 is back, in a new session" in capsys.readouterr().err


def test_sessions_of_others_are_left_alone(servers: dict[str, FlameServer]) -> None:
    with (
        flame.connect(servers["web1"].location, place="process", shell="mini") as one,
        flame.connect(servers["web1"].location, place="process", shell="mini") as two,
    ):
        with flame.group([one, two]) as group:
            assert group.labels == (f"{one.name}/1", f"{one.name}/2")
            group["x"] = 3
        assert one["x"] == two["x"] == 3
        with pytest.raises(flame.TargetError, match=f"{re.escape(one.name)} is named twice"):
            flame.group([one, two, one])


def test_files_to_all_and_each_ones_into_a_folder(web: Group, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    web.put(tmp_path / "a.txt", dst="there.txt")
    assert web.evaluate("open('there.txt').read()").answers() == ["hello"] * 3
    web.get("there.txt", dst=tmp_path / "back")
    assert sorted(path.parent.name for path in (tmp_path / "back").rglob("*.txt")) == list(HOSTS)


def test_a_file_goes_once_to_a_server(servers: dict[str, FlameServer], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    where = servers["web1"].location
    with flame.group([f"{where}*3"], place="process", shell="mini") as group:
        results = group.put(tmp_path / "a.txt", dst="once.txt")
        assert [None if one is None else one.files for one in results.answers()] == [1, None, None]
        assert group.evaluate("open('once.txt').read()").answers() == ["hello"] * 3


def test_imports_here_and_there(web: Group) -> None:
    with web.sync_imports():
        import colorsys  # noqa: F401
        from fractions import Fraction  # noqa: F401
    assert web.evaluate("colorsys.__name__, Fraction(1, 2).denominator").answers() == [("colorsys", 2)] * 3


@pytest.mark.parametrize(
    ("where", "said"),
    [("nobody", "there is no target or group 'nobody'"), ([], "no target is named"), ("web,-web", "nothing is left")],
)
def test_nobody(web: Group, where: str, said: str) -> None:
    with pytest.raises(flame.TargetError, match=said):
        flame.group(where)


def test_what_is_stopped_before_it_began_never_runs(
    servers: dict[str, FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FlakyLink(servers["web1"].location) as link:
        written(tmp_path, monkeypatch, {"web1": link.location})
        link.silent()
        with flame.group("web", place="process", shell="mini", timeout=60) as group:
            future = group.noblock.execute("ran = True")
            wait_until(lambda: group.members[0].state == "connecting", "it connects")
            future.interrupt()
            assert isinstance(future.results.errors["web1"], flame_kernel.errors.NotSent)
            link.up()
            assert group.evaluate("'ran' in globals()").answers() == [False]


def test_what_was_given_up_and_not_asked_is_not_asked_later(
    servers: dict[str, FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FlakyLink(servers["web2"].location) as link:
        written(tmp_path, monkeypatch, {"web1": servers["web1"].location, "far": link.location})
        with flame.group("web", place="process", shell="mini", fast=True) as group:
            group["n"] = 0
            group.patience = 0.2
            link.down()
            wait_until(lambda: group.members[1].state == "silent", "the cut is noticed")
            errors = [group.execute("n += 1").errors["far"] for _ in range(3)]
            assert ["it was not asked" in str(error) for error in errors] == [False, True, True]
            link.up()
            wait_until(lambda: group.members[1].state == "idle", "the link is back")
            assert group["n"].answers() == [3, 1]


def test_arrays_that_differ_are_not_told_as_equal(web: Group) -> None:
    values = numpy.zeros(5000)
    web["values"] = values
    values[2500] = 1
    web["web2"].push({"values": values})
    assert [hosts for _, hosts in web["values"].fold()] == [("web1", "web3"), ("web2",)]


@pytest.mark.parametrize("where", [5, ["web1", 3], {"web1"}])
def test_what_can_name_no_group(web: Group, where: object) -> None:
    with pytest.raises(flame.TargetError, match="a group is named by text"):
        flame.group(where)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values", [{1: 2, 3: 4, 5: 6}, {1, 2, 3}, 7, {1: 2, 3: 4, 5: 6}.keys(), numpy.array(3)], ids=str
)
def test_what_has_no_parts(web: Group, values: object) -> None:
    with pytest.raises(flame.FlameError, match="has no parts to divide"):
        web.scatter("part", values)  # type: ignore[arg-type]


def test_mistakes_in_arguments(web: Group) -> None:
    with pytest.raises(flame.TargetError, match=r"whole number from 0 on, not 1\.5"):
        web.executor(1.5)  # type: ignore[arg-type]
    with pytest.raises(flame.GroupError, match="takes a module or its name, not int"):
        web.sendmodule(5)  # type: ignore[arg-type]
    with pytest.raises(flame.GroupError, match=r"KeyboardInterrupt$"):
        web.execute("raise KeyboardInterrupt")
    with pytest.raises(TypeError, match="expected text, not int"):
        web.cell(5)  # type: ignore[arg-type]
    with pytest.raises(flame.GroupError) as raised:
        web.execute("class Odd(Exception): pass\nraise Odd('x')")
    assert told_errors(raised.value.errors, 3)[1:] == ["Odd: x"]


def test_a_stop_reaches_what_was_just_about_to_begin(web: Group) -> None:
    web.evaluate("1")
    near, on = threading.Event(), threading.Event()

    def late(member: object, remote: Remote) -> None:
        near.set()
        on.wait(20)
        remote.execute("import time\nwhile True:\n    time.sleep(0.01)")

    future = web[:1]._begin(late)
    assert near.wait(20)
    future.interrupt()
    on.set()
    assert future.wait(20)
    assert web.evaluate("2").answers() == [2, 2, 2]


def living(server: FlameServer) -> set[str]:
    with contextlib.closing(AgentClient(load_target(server.location))) as visitor:
        return {str(one["session"]) for one in visitor.sessions()}


def test_a_group_that_nobody_has_any_more_ends_its_sessions(servers: dict[str, FlameServer]) -> None:
    where = ",".join(one.location for one in servers.values())
    group = flame.group(where, place="process", shell="mini")
    name = group.evaluate("1") and group.members[0].known.session.session_id  # type: ignore[union-attr]
    assert name in living(servers["web1"])
    gc.disable()  # it is no part of a circle
    try:
        executor = group.executor()
        later = group.noblock.execute("import time; time.sleep(0.2); kept = 4")
        del group
        assert executor.submit(lambda: kept).result(30) == 4  # type: ignore[name-defined]  # noqa: F821
        del executor
        assert not later.result().errors
        wait_until(lambda: name not in living(servers["web1"]), "its session has ended")
    finally:
        gc.enable()


def test_a_remote_of_a_group_outlives_it(servers: dict[str, FlameServer], capsys: pytest.CaptureFixture[str]) -> None:
    remote = flame.group([servers["web1"].location], place="process", shell="mini")[0]
    gc.collect()
    assert remote.evaluate("2") == 2
    remote.execute("print('by itself')")
    assert capsys.readouterr().out == "by itself\n"
    remote.close()


def test_equal_mistakes_are_told_once(web: Group) -> None:
    with pytest.raises(flame.GroupError) as raised:
        web.evaluate("1 +")
    assert "\n".join(raised.value.lines).count("SyntaxError: invalid syntax") == 1
    assert "3 of 3 hosts: web[1-3]" in raised.value.lines[0]


def test_parts_that_make_no_whole_name_their_hosts(web: Group) -> None:
    web.push({"part": [1]})
    web["web2"]["part"] = 3
    with pytest.raises(flame.FlameError, match=r"of different kinds \(web1, web3: list; web2: int\)"):
        web.gather("part")
    web.push({"part": numpy.zeros((2, 3))})
    web["web3"]["part"] = numpy.zeros((2, 4))
    with pytest.raises(flame.FlameError, match=r"shapes differ \(web1, web2: \(2, 3\); web3: \(2, 4\)\)"):
        web.gather("part")


class Colour(enum.Enum):
    RED = 1


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024  # as users write it


@dataclasses.dataclass
class Reading:
    value: float


def test_classes_of_this_program_come_back_as_themselves(web: Group) -> None:
    web.execute("base = 10")

    def made(n: int) -> object:
        return Point(base + n, n), Colour.RED, Reading(n / 2)  # type: ignore[name-defined]  # noqa: F821

    for answer in web.run(made, 1).answers():
        assert answer == (Point(11, 1), Colour.RED, Reading(0.5))
        assert [type(one) for one in answer] == [Point, Colour, Reading]
    assert web.map(made, range(4))[3] == (Point(13, 3), Colour.RED, Reading(1.5))
    web.push({"point": Point(1, 2), "red": Colour.RED, "reading": Reading(1.0)})
    assert web.pull("point").answers() == [Point(1, 2)] * 3
    assert {type(one) for one in web.pull("reading").answers()} == {Reading}
    several = numpy.array([Point(1, 2), Colour.RED, Reading(2.0)], dtype=object)
    web.push({"several": several})
    for one in web.pull("several").answers():
        assert one.dtype == object
        assert list(one) == list(several)
    web.scatter("part", [Point(n, n) for n in range(5)])
    assert web.gather("part") == [Point(n, n) for n in range(5)]
