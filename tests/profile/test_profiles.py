"""Profiles of far sides: known shares, bad input, nothing left; and of data, however hostile it is."""

from __future__ import annotations

import contextlib
import html.parser
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
import pytest
from farside import FlameServer, LiveApp, Python, pythons, wait_until

import flame
from flame_kernel.errors import FlameError, RemoteError, UnsafeAnswer
from flame_kernel.profile import saving
from flame_kernel.profile.asking import ProfileOptions, Taking
from flame_kernel.profile.profile import Call, Profile, merged
from flame_kernel.remote.remote import Remote

# It notes itself what each function takes: on a busy machine that is not what it was meant to.
KNOWN = """
import threading, time
spent = {"seventy": 0.0, "twenty": 0.0, "ten": 0.0}
def spend(rounds):
    for _ in range(rounds):
        sum(range(100))
def seventy(): spend(7000)
def twenty(): spend(2000)
def ten(): spend(1000)
over = threading.Event()
def work():
    while not over.is_set():
        for function in (seventy, twenty, ten):
            begun = time.perf_counter()
            function()
            spent[function.__name__] += time.perf_counter() - begun
worker = threading.Thread(target=work, name="worker")
worker.start()
"""
THREADS = ("worker", "dozing")
END = "over.set(); worker.join()"
SCRIPTS = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b]0;title\x07\u202e"


@pytest.fixture(scope="module", params=["child", "process"])
def far(request: pytest.FixtureRequest, oldest_python: Python) -> Iterator[Remote]:
    """The tests' own Python in a child, and the oldest one in the process of an app."""
    server = FlameServer(pythons()[-1]) if request.param == "child" else LiveApp(oldest_python)
    try:
        with flame.connect(server.location, place=request.param, shell="mini") as remote:
            yield remote
    finally:
        server.stop()


@pytest.fixture
def known(far: Remote) -> Iterator[Remote]:
    far.execute(KNOWN)
    yield far
    far.execute(END)


def threads(far: Remote) -> list[str]:
    found: list[str] = far.evaluate("[t.name for t in __import__('threading').enumerate()]")
    return found


def test_known_shares(known: Remote) -> None:
    before = known.evaluate("dict(spent)")
    profile = known.profile(3, thread="worker")
    spent = {name: seconds - before[name] for name, seconds in known.evaluate("dict(spent)").items()}
    shares = profile.by_function()
    for name, seconds in spent.items():  # 300 samples on a busy machine have a standard deviation of 0.035
        assert abs(shares[name][1] - seconds / sum(spent.values())) < 0.15, f"{spent}\n{profile}"
    assert profile.total == pytest.approx(profile.seconds, rel=0.1)
    assert "sum(range(100))" in str(profile)
    assert 0 < profile.cost < 0.04 * profile.seconds  # it promises 2 %, looked at every 20 samples
    assert not any(name.startswith("flame-profile") for name in threads(known))


def test_several_threads_that_compute_are_not_slowed(far: Remote) -> None:
    far.execute(
        "import sys, threading\nover, seen = threading.Event(), []\n"
        "def work():\n    while not over.is_set():\n        sum(range(500)); seen.append(sys.getswitchinterval())\n"
        "workers = [threading.Thread(target=work) for _ in range(3)]\n[one.start() for one in workers]"
    )
    try:
        far.profile(0.5, scope="all", rate=1000)
        far.execute("seen.clear()")
        profile = far.profile(1.5, scope="all", rate=1000)
        half = far.evaluate("seen[len(seen) // 2:]")
    finally:
        far.execute("over.set(); [one.join() for one in workers]; seen.clear()")
    if far.evaluate("__import__('sys').version_info[:2]") < (3, 8):  # which threads compute is unknown there
        assert 0.001 in {round(one, 4) for one in half}
        return
    assert {round(one, 4) for one in half} == {0.005}
    assert "samples a second, not 1000: several threads compute there" in str(profile)
    assert profile.cost < 0.02 * profile.seconds


def test_a_whole_process_without_what_stands_still(known: Remote) -> None:
    known.execute("still = threading.Thread(target=over.wait, name='still'); still.start()")
    profile = known.profile(0.5, scope="all")
    seen = {thread for thread, _ in profile.stacks}  # and a thread of the server's own that works just then
    assert "worker" in seen
    assert "still" not in seen
    assert any(one.startswith("still: ") for one in profile.idle)
    assert "--idle" in str(profile)
    assert "still" in {thread for thread, _ in known.profile(0.5, scope="all", idle=True).stacks}
    assert not [call for _, calls in profile.stacks for call in calls if "flame_agent" in call.file]


def test_cpu_time_has_no_sleep(known: Remote) -> None:
    version = known.evaluate("__import__('sys').version_info[:2]")
    if tuple(version) < (3, 8):
        with pytest.raises(FlameError, match=r"does not tell the CPU time of a thread; use --wall"):
            known.profile(0.2, mode="cpu")
        return
    known.execute(
        "def doze():\n    while not over.wait(0.004): pass\n"
        "dozing = threading.Thread(target=doze, name='dozing'); dozing.start()"
    )
    for mode, most in (("wall", 1.2), ("cpu", 0.3)):
        profile = known.profile(0.5, mode=mode, scope="all")
        seconds = {name: sum(s for (thread, _), s in profile.stacks.items() if thread == name) for name in THREADS}
        assert 0 < seconds["dozing"] + 1e-9 < most * seconds["worker"], (mode, str(profile))


def test_of_asyncio_tasks(far: Remote) -> None:
    far.execute(
        "import asyncio, threading\n"
        "async def slow_handler(): await asyncio.sleep(1e4)\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.call_soon(lambda: globals().update(task=loop.create_task(slow_handler())))\n"
        "runner = threading.Thread(target=loop.run_forever); runner.start()"
    )
    profile = far.profile(0.4, scope="tasks")
    assert {thread for thread, _ in profile.stacks} == {"task slow_handler"}
    assert "sleep" in profile.by_function()
    far.execute("loop.call_soon_threadsafe(lambda: (task.cancel(), loop.call_soon(loop.stop))); runner.join()")


def test_what_cannot_be_profiled_has_its_sentence(far: Remote) -> None:
    with pytest.raises(FlameError, match=r"^no cell runs; --all profiles the whole process$"):
        far.profile(0.2, scope="cell")
    with pytest.raises(FlameError, match=r"^there is no thread nobody; there are: .*MainThread"):
        far.profile(0.2, thread="nobody")
    with pytest.raises(FlameError, match=r"^--rate is from 1 to 1000"):
        far.profile(rate=0)
    with pytest.raises(FlameError, match=r"^profile\(\) has no argument 'speed'"):
        far.profile(speed=1)
    # No Python code, and a thread that ends.
    assert "nothing to show: " in str(far.profile(0.2, scope="all"))
    assert "nothing to show: no asyncio task was there" in str(far.profile(0.1, scope="tasks"))
    far.execute("import threading, time; t = threading.Thread(target=time.sleep, args=(1.5,), name='short'); t.start()")
    profile = far.profile(60, thread="short")
    assert profile.note == "the thread ended before the time was over"
    assert profile.seconds < 30


def test_a_fork_has_no_sampler(far: Remote) -> None:
    profile: list[Profile] = []
    thread = threading.Thread(target=lambda: profile.append(far.profile(1.0, scope="all")))
    thread.start()
    code = (
        "import os, threading\n"
        "def in_fork():\n"
        "    r, w = os.pipe()\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        names = [t.name for t in threading.enumerate()]\n"
        "        os.write(w, repr([n for n in names if 'profile' in n]).encode()); os._exit(0)\n"
        "    os.waitpid(pid, 0); os.close(w)\n"
        "    text = os.read(r, 1000).decode(); os.close(r)\n"
        "    return text\n"
    )
    far.execute(code)
    assert far.evaluate("in_fork()") == "[]"
    thread.join()
    assert profile[0].samples > 0


def test_a_held_interpreter_is_seen_from_outside(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location, place="child", shell="mini") as pi:
        pi.execute("import re")

        def run() -> None:
            with contextlib.suppress(RemoteError):
                pi.execute("re.match('(a+)+b', 'a' * 40)")

        cell = threading.Thread(target=run)
        cell.start()
        wait_until(lambda: "in match" in pi.where(), "the cell in its call")
        profile = pi.profile(0.5)
        assert "interpreter does not answer" in profile.note
        assert "match" in profile.by_function()
        pi.interrupt()
        cell.join()


def test_a_cell_that_is_over_at_once(far: Remote) -> None:
    for _ in range(3):
        taking = Taking(far.session, ProfileOptions(), "never")  # as one that was over before the first look
        profile = taking.result()
        assert profile.note == "it was over before the first sample"
        assert profile.seconds < 5


def test_few_samples_take_no_longer(known: Remote) -> None:
    begun = time.monotonic()
    profile = known.profile(0.3, rate=1, scope="all")
    assert profile.samples == 1
    assert 0.3 <= profile.seconds < 1.2
    assert time.monotonic() - begun < 1.6


def test_ctrl_c_ends_it_early(known: Remote) -> None:
    taking = Taking(known.session, ProfileOptions(scope="all", seconds=600))
    threading.Timer(0.5, taking.stop).start()
    profile = taking.result()
    assert profile.samples > 0
    assert profile.seconds < 60


def test_memory(far: Remote) -> None:
    with pytest.raises(FlameError, match=r"not being recorded; start that with %flame memory --start"):
        far.memory()
    assert "until %flame memory --stop" in far.memory("start")
    far.execute("kept = [bytearray(1000) for _ in range(3000)]")
    grown = far.memory().splitlines()
    assert any("kept = [bytearray(1000)" in line and line.startswith("+") and "MiB" in line for line in grown[2:4]), (
        grown
    )
    assert "bytearray" in far.memory("types")
    far.execute("class Box: pass\nbox = Box(); box.inner = [kept[0]]")
    picture = far.memory(of="box.inner")
    assert "box" in picture
    assert "inner" in picture
    assert "global kept" in far.memory(of="kept")
    with pytest.raises(FlameError, match="name 'nothing' is not defined"):
        far.memory(of="nothing")
    with pytest.raises(FlameError, match="looks at start, stop, look or types"):
        far.memory("everything")
    assert far.evaluate("__import__('tracemalloc').is_tracing()")
    far.memory("stop")
    assert not far.evaluate("__import__('tracemalloc').is_tracing()")
    far.execute("import tracemalloc; tracemalloc.start()")
    with pytest.raises(FlameError, match="itself has tracemalloc on"):
        far.memory("stop")
    far.execute("tracemalloc.stop(); del kept, box")


def test_nothing_is_noted_when_the_session_is_gone(oldest_python: Python) -> None:
    with farside.stopped(LiveApp(oldest_python)) as app:
        with flame.connect(app.location, place="process", shell="mini") as remote:
            before = remote.evaluate("__import__('sys').getswitchinterval()")
            remote.memory("start")
            taking = Taking(remote.session, ProfileOptions(scope="all", seconds=600))
        with pytest.raises(FlameError):
            taking.result()
        with flame.connect(app.location, place="process", shell="mini") as remote:
            assert not remote.evaluate("__import__('tracemalloc').is_tracing()")
            wait_until(lambda: not any("profile" in name for name in threads(remote)), "the sampler's end")
            assert remote.evaluate("__import__('sys').getswitchinterval()") == before


# -- data --------------------------------------------------------------------------------------------------------------


def reply(**changes: Any) -> dict[str, Any]:
    """What an honest agent answers."""
    content: dict[str, Any] = {
        "status": "ok",
        "pid": 1,
        "scope": "all",
        "mode": "wall",
        "seconds": 2.0,
        "samples": 200,
        "cost": 0.01,
        "note": "",
        "idle": [],
        "threads": ["main"],
        "functions": [["work", "/app/shop.py"], ["slow", "/app/shop.py"]],
        "frames": [[0, 3], [1, 9]],
        "stacks": [[0, 0.5, [0]], [0, 1.5, [0, 1]]],
        "sources": [[1, "sort(prices)"]],
        "left_out": 0.0,
    }
    return content | changes


class Tags(html.parser.HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_words_page_and_file(tmp_path: Path) -> None:
    profile = Profile.of_reply(reply(), "pi")
    assert profile.rows()[1] == ("75.0 %", "75.0 %", "slow", "/app/shop.py:9", "sort(prices)")
    tags = Tags(profile.page()).found
    boxes = [(one["data-x"], one["data-w"]) for tag, one in tags if tag == "svg" and "data-w" in one]
    assert boxes == [("0.000000", "1.000000")] * 3 + [("0.000000", "0.750000")]
    path = tmp_path / "p.json"
    saving.save(profile, path)
    content = json.loads(path.read_text())
    assert content["shared"]["frames"][1] == {"name": "slow", "file": "/app/shop.py", "line": 9}
    assert content["profiles"][0]["weights"] == [0.5, 1.5]
    loaded = saving.load(path)
    assert loaded.stacks == profile.stacks
    both = merged({"a": profile, "b": profile})
    assert both.total == 4.0
    assert both.hosts == 2
    less = Profile.of_reply(reply(stacks=[[0, 1.5, [0]], [0, 0.5, [0, 1]]]), "pi").against(loaded)
    assert less.rows()[1][:2] == ("+50.0", "75.0 %")
    assert {one.get("class") for tag, one in Tags(less.page()).found if tag == "svg"} >= {"less", "same"}
    saving.save(profile, tmp_path / "p.html")
    assert "<svg" in (tmp_path / "p.html").read_text()
    for text in ("[]", "{", '{"shared": {"frames": [1]}}', "[" * 100000):
        path.write_text(text)
        with pytest.raises(FlameError, match="is not a profile"):
            saving.load(path)


def test_names_of_a_server_are_text_and_nothing_else() -> None:
    hostile = reply(
        threads=[SCRIPTS],
        functions=[[SCRIPTS, SCRIPTS], ["b", "</style></svg></script>"]],
        sources=[[0, SCRIPTS], [1, "x"]],
        note=SCRIPTS,
        idle=[SCRIPTS],
        scope=SCRIPTS[:100],
    )
    profile = Profile.of_reply(hostile, "pi")
    page = profile.page()
    tags = Tags(page).found
    assert {tag for tag, _ in tags} <= {
        *("div", "style", "p", "input", "button", "span", "svg", "title", "rect", "text", "table", "tr", "th", "td"),
        "script",
    }
    assert [tag for tag, _ in tags].count("script") == 1
    assert not [one for _, one in tags if any(name.startswith("on") or name in ("href", "src") for name in one)]
    honest = Profile.of_reply(reply(), "pi").page()
    assert page.partition("<script>")[2].count("alert") == 0
    assert len(page.partition("<script>")[2]) == len(honest.partition("<script>")[2])
    for text in (page, str(profile), repr(profile), json.dumps(saving.speedscope(profile, "x"))):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"stacks": [[0, 1.0, [7]]]},
        {"stacks": [[3, 1.0, [0]]]},
        {"stacks": [[0, float("nan"), [0]]]},
        {"stacks": [[0, 1.0]]},
        {"frames": [[5, 1]]},
        {"frames": [[0, -1]]},
        {"functions": [["a"]]},
        {"functions": [["a" * 1000, ""]]},
        {"sources": [[9, "x"]]},
        {"threads": [1]},
        {"samples": -1},
        {"cost": "much"},
        {"left_out": None},
    ],
)
def test_a_profile_of_the_wrong_shape_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsafeAnswer):
        Profile.of_reply(reply(**changes), "pi")


def test_a_large_profile_is_a_page_of_bounded_size() -> None:
    calls = tuple(Call(f"f{n}", "/a.py", n) for n in range(200))
    stacks = {("main", (*calls[: n % 200 + 1], Call(f"leaf{n}", "/b.py", n))): 1.0 for n in range(1500)}
    profile = Profile(stacks, {}, "wall", "all", 1.0, 1, 0.0)
    assert len(profile.page()) < 2_500_000
