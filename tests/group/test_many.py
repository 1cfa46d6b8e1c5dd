"""Many hosts at once: what they cost, and hosts that are ill in every way beside those that are well."""

from __future__ import annotations

import collections
import contextlib
import os
import resource
import secrets
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from farside import FlameServer, pythons, stopped, wait_until
from flakylink import FlakyLink
from netns import net

import flame
from flame_kernel.group.group import Group
from flame_kernel.session.io_threads import FEW, KEPT, IoThreads, Wait

SERVERS, SESSIONS = 5, 50


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    """Fifty sessions on five stock servers, each on a host of its own."""
    key = secrets.token_hex(16)
    monkeypatch.setenv("GROUP_KEY", key)
    with contextlib.ExitStack() as stack:
        words = []
        for _ in range(SERVERS):
            host = stack.enter_context(net())
            arguments = ("-H", host.address)
            server = FlameServer(pythons()[-1], key=key, within=host.within, arguments=arguments)
            words.append(f"{stack.enter_context(stopped(server)).location}*{SESSIONS // SERVERS}")
        yield stack.enter_context(
            flame.group(words, key="env:GROUP_KEY", allow_plain=True, place="process", shell="mini", timeout=60)
        )


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_fifty_sessions_cost_little(many: Group) -> None:
    before, threads = memory(), threading.active_count()
    assert many.evaluate("6 * 7").answers() == [42] * SESSIONS
    wait_until(lambda: threading.active_count() - threads <= KEPT + 1, "those that have nothing to do end")
    each = (memory() - before) / SESSIONS / (1 << 20)

    cells, bare = [], []
    for _ in range(9):
        began = time.perf_counter()
        assert len(many.cell("pass").ok) == SESSIONS
        cells.append(time.perf_counter() - began)
        began = time.perf_counter()
        for remote in many:
            remote.session.ask("hello").result()
        bare.append(time.perf_counter() - began)
    ratio = statistics.median(cells) / statistics.median(bare)

    wait_until(lambda: threading.active_count() - threads <= KEPT + 1, "and again")
    used, began = cpu(), time.monotonic()
    time.sleep(15)  # what is measured is what they cost in some seconds
    idle = 100 * (cpu() - used) / (time.monotonic() - began)
    print(f"{each:.2f} MiB a session, {idle:.2f} % of a core; a cell on all is {ratio:.2f} x {SESSIONS} round trips")
    assert ratio <= 2
    assert idle <= 0.5
    assert each <= 1


def test_as_many_turns_as_there_are_hosts_that_hang(many: Group) -> None:
    """Each link of a server is silent at once: nobody is short of a thread, and all come back."""
    blocked = [threading.Event() for _ in range(FEW + 3)]
    for remote, event in zip(many, blocked, strict=False):
        remote.show = lambda told, event=event: event.wait(30)  # type: ignore[misc]
    shows = "from IPython.display import display, Markdown; display(Markdown('*a*'))"
    futures = [remote.cell(shows, remote.show) for remote in list(many)[: len(blocked)]]
    try:
        assert many[len(blocked) :].evaluate("1").answers() == [1] * (SESSIONS - len(blocked))
    finally:
        for event in blocked:
            event.set()
    assert all(future.result(30)["status"] == "ok" for future in futures)


def test_a_turn_that_nobody_waits_for_comes_after_those_that_are_due() -> None:
    threads, order, gate, hung = IoThreads(), [], threading.Event(), threading.Event()
    threads.use(1)
    hold = [threads.task(lambda why: gate.wait(20) and None) for _ in range(FEW - 1)]
    later = threads.task(lambda why: order.append("due later"))

    def wake_another(why: str) -> None:
        order.append("due")
        later.wake()

    due = threads.task(wake_another)

    def answer(why: str) -> Wait | None:
        if "answered" in order:
            order.append("again")
            return None
        due.wake()
        order.append("answered")
        return Wait(is_last=True)

    late = threads.task(lambda why: hung.wait(20) and None)
    waiting = threads.task(lambda why: order.append("again too") if "free" in order else _last(order))
    try:
        for one in hold:
            one.wake()
        wait_until(lambda: all(one.state == "running" for one in hold), "their turns")
        threads.task(answer).wake()
        wait_until(lambda: len(order) == 4, "all turns")
        assert order == ["answered", "due", "due later", "again"]
        # It is not left behind where the others hang.
        waiting.wake()
        late.wake()
        wait_until(lambda: order[-1] == "again too", "its turn")
    finally:
        gate.set()
        hung.set()
        threads.use(-1)
        threads.join(5)


def _last(order: list[str]) -> Wait:
    order.append("free")
    return Wait(is_last=True)


def members_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("flame-member")]


def test_a_cell_on_members_that_are_idle_has_no_thread_and_its_turn(server: FlameServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    hold = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\ndone = True"
    with flame.group(f"{server.location}*2", place="process", shell="mini") as pair:
        pair.connect()
        wait_until(lambda: not members_threads(), "those that have nothing to do end")
        future = pair.noblock.cell(hold)
        assert pair.states.startswith("busy")
        assert not members_threads()
        behind = [pair.noblock.evaluate("done"), pair.noblock.cell("print(done)")]
        gate.touch()
        assert behind[0].result(20).answers() == [True, True]
        assert [one.text for one in behind[1].result(20).ok.values()] == ["True\n", "True\n"]
        assert list(future.result(20).ok) == list(pair.labels)
        wait_until(lambda: not members_threads(), "and again")
        told: list[object] = []
        first, called = pair[0], threading.Event()
        future = pair.noblock.cell("seen = 3")
        future.add_done_callback(lambda done: (told.append(first.evaluate("seen")), called.set()))
        assert called.wait(20), "a callback may ask the session whose answer was the last one"
        assert told == [3]
        wait_until(lambda: not members_threads(), "and once more")
        gate.unlink()
        given_up = pair.noblock.cell(hold)
        never = pair.noblock.cell("never = 1")
    for ended in (given_up, never):
        assert ended.wait(20)
        assert set(ended.results.errors) == set(pair.labels)


ROUNDS = 12
HOSTS = ("well1", "well2", "well3", "dead", "silent", "slow", "cut", "restarted")
NOTE = """\
import os
with open(os.environ["LEDGER"], "a") as file:
    file.write("%d\\n")
print(%d)"""


class Hosts:
    """Eight hosts, each behind a link of its own, and what ran on each."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.servers: dict[str, FlameServer] = {}
        self.links: dict[str, FlakyLink] = {}
        for name in HOSTS:
            self._serve(name)
            self.links[name] = stack.enter_context(FlakyLink(self.servers[name].location))
        self.servers["dead"].stop()
        self.links["dead"].down()
        self.links["slow"].delay = 0.1

    def _serve(self, name: str) -> None:
        env: dict[str, str | None] = {"LEDGER": str(self._folder / name)}
        self.servers[name] = self._stack.enter_context(stopped(FlameServer(pythons()[-1], env=env)))

    def restart(self, name: str) -> None:
        self.servers[name].stop()
        self._serve(name)
        self.links[name].lead_to(self.servers[name].location)
        self.links[name].cut()

    def cut(self, name: str, times: int) -> None:
        for _ in range(times):
            self.links[name].cut()
            time.sleep(0.15)  # what is cut is what is under way then

    def ran(self, name: str) -> list[int]:
        path = self._folder / name
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_eight_hosts_of_which_five_are_ill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as stack:
        hosts = Hosts(tmp_path, stack)
        config = tmp_path / "targets.toml"
        config.touch(mode=0o600)
        config.write_text(
            "".join(f'[targets.{name}]\nlocation = "{one.location}"\n' for name, one in hosts.links.items())
        )
        monkeypatch.setenv("FLAME_CONFIG", str(config))
        group = stack.enter_context(flame.group(list(HOSTS), place="process", shell="mini"))
        assert set(group.evaluate("1").errors) == {"dead"}
        group.patience = 0.5
        well = [name for name in HOSTS if name.startswith("well")]
        cutting = threading.Thread(target=hosts.cut, args=("cut", 20))
        took, answered = [], collections.Counter[str]()
        for number in range(ROUNDS):
            if number == 2:
                cutting.start()
            if number == 4:
                hosts.links["silent"].silent()
            if number == 6:
                hosts.restart("restarted")
            began = time.monotonic()
            future = group.noblock.cell(NOTE % (number, number))
            wait_until(lambda: all(name in future.results.ok for name in well), "those that are well")  # noqa: B023
            took.append(time.monotonic() - began)
            assert future.wait(30)
            assert list(future.results) == list(HOSTS)
            for name, output in future.results.ok.items():
                assert output.text == f"{number}\n"
                answered[name] += 1
            assert isinstance(future.results.errors["dead"], flame.CannotConnect)
        cutting.join()
        print(f"those that are well took {statistics.median(took):.3f} s, {max(took):.3f} s at most; {dict(answered)}")
        assert statistics.median(took) <= 2
        for name in (*well, "slow", "cut"):
            assert hosts.ran(name) == list(range(ROUNDS)), name
            assert answered[name] == ROUNDS
        for name in ("silent", "restarted"):
            ran = hosts.ran(name)
            assert ran == sorted(set(ran)), f"twice, or out of turn, at {name}"
            assert len(ran) >= answered[name] >= 4
        assert hosts.ran("dead") == []
        assert answered["restarted"] >= ROUNDS - 2
        assert "[restarted is back, in a new session" in capsys.readouterr().err
        hosts.links["silent"].cut()
        hosts.links["silent"].up()


def test_turns_are_had_one_at_a_time_and_none_is_lost() -> None:
    from flame_kernel.session import io_threads

    threads = io_threads.enter()
    try:
        inside, most, had = [0], [0], [0]

        def turn(why: str) -> io_threads.Wait:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            had[0] = asked[0]
            inside[0] -= 1
            return io_threads.Wait()

        asked = [0]
        task = threads.task(turn)
        for number in range(1, 200):
            asked[0] = number
            task.wake()
        wait_until(lambda: had[0] == asked[0], "the last wake is followed by a turn")
        assert most[0] == 1
        late: list[str] = []
        timed = threads.task(lambda why: late.append(why) or (io_threads.Wait(seconds=0.01) if len(late) < 3 else None))
        timed.wake()
        assert timed.over.wait(10)
        assert late == [io_threads.WOKEN, io_threads.LATE, io_threads.LATE]
    finally:
        io_threads.leave(threads)


def test_a_child_of_this_process_has_threads_of_its_own() -> None:
    from flame_kernel.session import io_threads

    threads = io_threads.enter()
    try:
        pid = os.fork()
        if not pid:  # pragma: no cover - another process
            ok = False
            with contextlib.suppress(BaseException):
                mine = io_threads.enter()
                had = threading.Event()
                mine.task(lambda why: had.set()).wake()
                ok = mine is not threads and had.wait(10)
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        had = threading.Event()
        threads.task(lambda why: had.set()).wake()
        assert had.wait(10)
    finally:
        io_threads.leave(threads)
