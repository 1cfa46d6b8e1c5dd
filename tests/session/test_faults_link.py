"""Faults of the link, as a notebook sees them: cut, refused, swallowed. Nothing is lost, nothing runs twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from farside import FlameServer, LiveApp, wait_until
from faultcases import FULL, is_exact, link_is_back, link_lines, numbered, says_link_is_lost
from flakylink import FlakyLink, How
from kernels import Kernel, remote_flame
from places import ok

Start = Callable[..., FlameServer]


@pytest.fixture
def link(server: FlameServer) -> Iterator[FlakyLink]:
    with FlakyLink(server.location) as one:
        yield one


@pytest.fixture
def k(link: FlakyLink) -> Iterator[Kernel]:
    with remote_flame(env={"FLAME_TARGET": link.location}) as kernel:
        ok(kernel.execute("pass", silent=True))
        yield kernel


@pytest.mark.parametrize(("how", "size"), [("rst", 64_000), ("fin", 64_000), ("rst", 256_000)])
def test_a_hundred_thousand_lines_through_cuts(k: Kernel, link: FlakyLink, how: How, size: int) -> None:
    """All lines, once, in order; executed once; in ten seconds."""
    began = time.monotonic()
    link.cut_every(size, how)
    run = k.execute(numbered(100_000), timeout=30)
    seconds, cuts = time.monotonic() - began, link.cuts
    link.cut_every(None)
    print(f"{cuts} cuts, {seconds:.1f} s")
    is_exact(run, 100_000)
    assert cuts >= (20 if size == 64_000 else 4)
    assert seconds <= 10
    # As a notebook that was not watched shows it: nothing about a link that is there.
    assert link_lines(run)[-1:] in ([], [""])


@pytest.mark.parametrize("kind", ["unix", "key", "process", "multiplex"])
def test_the_same_elsewhere(kind: str, flame_server: Start, live_app: Callable[..., LiveApp], key_file: object) -> None:
    """Over a unix socket, with a key, in an app's own process, on a server that serves one call at a time."""
    env: dict[str, str | None] = {}
    server: FlameServer | LiveApp
    if kind == "unix":
        server = flame_server(unix=True)
    elif kind == "key":
        server = flame_server(key="k" * 32)
        env["FLAME_KEY_FILE"] = str(key_file("k" * 32))  # type: ignore[operator]
    elif kind == "process":
        server = live_app()
    else:
        server = flame_server(servertype="multiplex")
    with FlakyLink(server.location) as link, remote_flame(env={"FLAME_TARGET": link.location, **env}) as k:
        ok(k.execute("pass", silent=True))
        link.cut_every(32_000)
        run = k.execute(numbered(20_000))
        link.cut_every(None)
        is_exact(run, 20_000)
        assert link.cuts >= 5


@pytest.mark.parametrize(("how", "times"), [("rst", 10), ("fin", 3)])
def test_the_answer_to_a_cell_is_lost_ten_times(k: Kernel, link: FlakyLink, how: How, times: int) -> None:
    """It was delivered each time, and is executed once."""
    link.swallow(b'"kind":"execute"', times=times, how=how)
    run = k.execute(numbered(3))
    wait_until(lambda: link.still_to_swallow == 0, "so many lost answers")
    is_exact(run, 3)
    is_exact(k.execute(numbered(3)), 3, runs=2)


def test_answers_to_polls_are_lost(k: Kernel, link: FlakyLink) -> None:
    """What was sent under a number is sent again under it."""
    link.swallow(b'"op":"poll"', times=5)
    is_exact(k.execute(numbered(1000, pause=0.001)), 1000)
    assert link.still_to_swallow == 0


@pytest.mark.parametrize("how", ["refuse", "fin"])
def test_an_outage_in_a_cell(k: Kernel, link: FlakyLink, how: str) -> None:
    """Said within a second, caught up in 2.5 s, few attempts; and the line is taken back."""
    outage = 30.0 if FULL else 3.0
    count = int((outage + 2) * 100)
    run = k.submit(numbered(count, pause=0.01))
    k.wait_for_output(run, "line 000030")
    link.down(how)  # type: ignore[arg-type]
    accepted, began = link.accepted, time.monotonic()
    sentence = says_link_is_lost(k, run, 1.0)
    assert link.location.split(":")[0] in sentence
    assert "retrying" in sentence
    k.wait_for(lambda: time.monotonic() - began > outage, "the outage", outage + 5)
    attempts = link.accepted - accepted  # none is counted where the system refuses them
    link.up()
    began = time.monotonic()
    link_is_back(k, run, 10)
    back = time.monotonic() - began
    print(f"{attempts} attempts in {outage:g} s, back after {back:.2f} s")
    assert back <= 2.5
    assert attempts <= (20 if FULL else 16)
    k.wait(run)
    is_exact(run, count)
    # Said once, and quietly: one line, put up to date where it stands.
    assert len(run.of_type("display_data")) == 1


def test_an_outage_while_idle_is_no_matter(k: Kernel, link: FlakyLink) -> None:
    link.down()
    link.up()
    assert ok(k.execute("6 * 7")).result == "42"
    link.down()
    run = k.submit("7 * 6")
    says_link_is_lost(k, run, 5)
    link.up()
    k.wait(run)
    assert ok(run).result == "42"
    assert link_lines(run)[-1] == ""


def test_stop_when_the_poll_was_cut(k: Kernel, link: FlakyLink) -> None:
    """The stop arrives, and its KeyboardInterrupt too."""
    for _ in range(5):
        run = k.submit("import time\nprint('in')\nwhile True: time.sleep(0.01)")
        k.wait_for_output(run, "in")
        link.cut(asking=b'"op":"poll"')
        k.interrupt()
        k.wait(run, 10)
        assert run.error is not None
        assert run.error["ename"] == "KeyboardInterrupt"
        assert ok(k.execute("1 + 1")).result == "2"


def test_stop_during_an_outage_is_for_its_own_cell(k: Kernel, link: FlakyLink) -> None:
    """The wait ends at once; when the link is back the next cell is not the one that is stopped."""
    run = k.submit("import time\nprint('in')\nwhile True: time.sleep(0.01)")
    k.wait_for_output(run, "in")
    link.down()
    says_link_is_lost(k, run, 5)
    began = time.monotonic()
    k.interrupt()
    k.wait(run, 10)
    assert time.monotonic() - began <= 20
    assert run.error is not None
    assert run.error["ename"] in ("ConnectionLost", "KeyboardInterrupt"), run.error
    after = k.submit("import time\nfor i in range(100): time.sleep(0.01)\n'done'")
    link.up()
    k.wait(after)
    assert ok(after).result == "'done'"


def test_stop_that_comes_after_its_cell_stops_no_other(k: Kernel, link: FlakyLink) -> None:
    """The cell ends by itself while the stop is on its way; the next one is begun meanwhile."""
    link.delay = 0.4  # the end of the cell is 0.3 s behind its output: a stop that is sent in between comes too late
    for _ in range(3):
        run = k.submit("print('in')\nimport time; time.sleep(0.3)")
        after = k.submit("for i in range(40): time.sleep(0.01)\n'done'")
        k.wait_for_output(run, "in")
        k.interrupt()
        k.wait(run)
        k.wait(after)
        assert after.reply is not None
        # Cells that wait in the kernel's queue are dropped by a stop, as ipykernel does; none is stopped in its middle.
        assert after.reply["status"] in ("ok", "aborted"), after


def test_input_over_a_link_that_breaks(k: Kernel, link: FlakyLink) -> None:
    """A prompt outlives the link that brought it, and so does its answer."""
    run = k.submit("x = input('name? ')\nx")
    k.wait_for(lambda: run.prompts, "the prompt")
    link.cut()
    link.swallow(b'"op":"answer"', times=2)
    k.answer_input("Ada")
    k.wait(run)
    assert ok(run).result == "'Ada'"
    assert run.prompts == [("name? ", False)]
    wait_until(lambda: link.still_to_swallow == 0, "two lost answers")


def test_only_the_line_of_events_is_dead(k: Kernel, link: FlakyLink) -> None:
    """The server answers by the other line that there is something to see: nobody waits for the poll's own end, which
    is half a minute away."""
    run = k.submit(numbered(60, pause=0.05))
    k.wait_for_output(run, "line 000003")
    # Between two polls there is none to be lost.
    k.wait_for(lambda: link.lose(b'"op":"poll"') == 1, "a poll that waits")
    accepted = link.accepted
    k.wait(run, 15)
    is_exact(run, 60)
    assert link.accepted == accepted + 1
    is_exact(k.execute(numbered(3)), 3, runs=2)
