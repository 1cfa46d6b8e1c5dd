"""The journal and its file alone, in this process: what is kept, what is dropped; and the reader misses nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini import AGENT

from flame_kernel.agent.log import journal, spill
from flame_kernel.agent.log import log as events
from flame_kernel.session.inbox import Inbox

KB = 1 << 10
MARK = re.compile(r"\[(\d+) bytes of output dropped here: ([^\]]*)\]\n")


def stream(text: str, request: str = "r", name: str = "stdout") -> dict[str, Any]:
    return {"type": "stream", "request": request, "content": {"name": name, "text": text}}


def reply(request: str = "r", status: str = "ok") -> dict[str, Any]:
    return {"type": "execute_reply", "request": request, "content": {"status": status, "execution_count": 1}}


def log_alone(cap: int = 256 * KB, **options: Any) -> events.EventLog:
    """A log whose reader has left."""
    log = events.EventLog(cap=cap, **{"bound": 64 * KB, **options})
    log.detach()
    return log


def say(log: events.EventLog, request: str, text: str) -> None:
    """What a thread that keeps the log itself writes into it."""
    for at in range(0, len(text), 500 * KB):
        log.write(request, "stdout", text[at : at + 500 * KB])
        log.keep()


def read_all(log: events.EventLog, ack: int = 0, limit: int = 100 * KB) -> list[dict[str, Any]]:
    """As a client reads: an Inbox raises at the first gap."""
    inbox = Inbox(ack)
    found: list[dict[str, Any]] = []
    while True:
        fresh = inbox.feed(log.poll(inbox.ack, limit=limit))
        if not fresh:
            return found
        found += fresh


def texts(found: list[dict[str, Any]], name: str = "stdout") -> str:
    return "".join(e["content"]["text"] for e in found if e["type"] == "stream" and e["content"]["name"] == name)


def marks(found: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """``(request, bytes)`` of each mark."""
    matches = [
        (e["request"], MARK.fullmatch(e["content"]["text"]))
        for e in found
        if e["type"] == "stream" and e["content"]["name"] == "stderr"
    ]
    return [(request, int(match.group(1))) for request, match in matches if match]


def spilled_files() -> list[str]:
    """Open files of this process in the folder for temporary ones, with a name or without."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if path.startswith(tempfile.gettempdir() + "/"):
            found.append(path)
    return found


# -- the file --------------------------------------------------------------------------------------------------------


@given(st.data())
def test_what_was_stored_is_read_back_whatever_came_between(data: st.DataObject) -> None:
    file = spill.Spill()
    kept: dict[tuple[int, ...], bytes] = {}
    rng = random.Random(data.draw(st.integers(0, 10**6), label="seed"))
    for _ in range(data.draw(st.integers(1, 40), label="steps")):
        if kept and rng.random() < 0.5:
            pages = rng.choice(list(kept))
            assert file.load(pages, len(kept[pages])) == kept.pop(pages)
            file.free(pages)
        else:
            content = rng.randbytes(rng.choice([1, 100, spill.PAGE - 1, spill.PAGE, 3 * spill.PAGE + 7]))
            kept[file.store(content)] = content
    for pages, content in kept.items():
        assert file.load(pages, len(content)) == content
    used = sum(len(pages) for pages in kept)
    assert used * spill.PAGE <= file.size
    assert bool(spilled_files()) == bool(kept)
    for pages in kept:
        file.free(pages)
    assert file.size == 0
    assert spilled_files() == []


def test_the_file_has_no_name_and_is_private() -> None:
    file = spill.Spill()
    before = set(Path(tempfile.gettempdir()).iterdir())
    file.store(b"x" * 100)
    assert set(Path(tempfile.gettempdir()).iterdir()) == before
    assert len(spilled_files()) == 1
    assert os.fstat(file._file.fileno()).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(file._file.fileno())
    file.close()


def test_a_file_shrinks_again() -> None:
    file = spill.Spill()
    large, small = file.store(bytes(40 * spill.PAGE)), file.store(b"small")
    file.free(large)
    assert os.fstat(file._file.fileno()).st_size <= 41 * spill.PAGE
    again = file.store(b"again")  # at the beginning
    file.free(small)
    assert os.fstat(file._file.fileno()).st_size == spill.PAGE
    assert file.load(again, 5) == b"again"
    file.close()


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_output_that_nobody_reads_goes_into_the_file_and_comes_back_whole() -> None:
    log = log_alone(cap=64 << 20)
    lines = "".join(f"{n}\n" for n in range(200_000))
    say(log, "r", lines)
    log.append(reply())
    log.keep()
    held = sum(block.size for block in log._journal._blocks if block.events is not None)
    assert held < 64 * KB + 2 * journal.BLOCK
    assert log._journal._spill.size > 512 * KB
    found = read_all(log)
    assert texts(found) == lines
    assert found[-1]["type"] == "execute_reply"
    assert log.waiting == 0
    log.close()
    log.forget()
    assert spilled_files() == []


@pytest.mark.parametrize("width", [1, 40, 30_000])
def test_beyond_the_cap_the_middle_is_dropped_and_one_mark_says_how_much(width: int) -> None:
    """Head and tail are intact, and the bytes that are missing are those of the mark."""
    cap = 256 * KB
    log = log_alone(cap=cap)
    line = "x" * (width - 1) + "\n"
    count = 4 * cap // width
    for _ in range(count):
        log.write("r", "stdout", line)
        assert log._journal.waiting < cap + journal.BLOCK
        if len(log._incoming) > 50:
            log.keep()
    log.append(reply())
    found = read_all(log)
    ((request, dropped),) = marks(found)
    shown = [e for e in found if e["type"] == "stream"]
    at = next(n for n, e in enumerate(shown) if e["content"]["name"] == "stderr")
    head, tail = texts(shown[:at]), texts(shown[at + 1 :])
    assert request == "r"
    assert dropped + len(head) + len(tail) == count * width
    assert (line * count).startswith(head)
    assert (line * count).endswith(tail)
    assert min(len(head), len(tail)) > cap // 4
    assert "the journal's cap of 256 KiB was reached while nobody read" in shown[at]["content"]["text"]
    assert found[-1]["type"] == "execute_reply"
    log.close()
    log.forget()


def test_bytes_are_those_of_the_link_not_characters() -> None:
    log = log_alone(cap=64 * KB)
    for _ in range(1000):
        say(log, "r", "\N{SNOWMAN}" * 100)
    found = read_all(log)
    ((_, dropped),) = marks(found)
    assert dropped + len(texts(found).encode()) == 300_000


def test_each_cell_has_a_mark_and_no_reply_is_ever_dropped() -> None:
    log = log_alone(cap=128 * KB)
    for n in range(20):
        say(log, f"r{n}", "y" * 20_000)
        log.append({"type": "error", "request": f"r{n}", "content": {"ename": "E", "evalue": str(n), "traceback": []}})
        log.append(reply(f"r{n}"))
    found = read_all(log)
    assert [e["request"] for e in found if e["type"] == "execute_reply"] == [f"r{n}" for n in range(20)]
    assert [e["request"] for e in found if e["type"] == "error"] == [f"r{n}" for n in range(20)]
    said = marks(found)
    assert len(said) == len(dict(said))  # one each
    kept: dict[str, int] = dict(said)
    for event in found:
        if event["type"] == "stream" and event["content"]["name"] == "stdout":
            kept[event["request"]] = kept.get(event["request"], 0) + len(event["content"]["text"])
    assert kept == {f"r{n}": 20_000 for n in range(20)}
    # A mark stands where its cell's output was: before the cell's error.
    order = [(e["type"], e["request"]) for e in found if e["type"] in ("stream", "error")]
    for request, _ in said:
        assert order.index(("stream", request)) < order.index(("error", request))


def test_what_was_sent_is_not_dropped() -> None:
    log = log_alone(cap=64 * KB)
    say(log, "r", "a" * 60_000)
    first = log.poll(0, limit=1 << 20)
    log.detach()
    for _ in range(50):
        say(log, "r", "b" * 10_000)
    assert log.poll(0, limit=texts(first).count("a") + 64 * len(first))[: len(first)] == first
    found = read_all(log)
    assert [e["number"] for e in found] == list(range(1, len(found) + 1))
    assert texts(found).startswith("a" * 60_000)
    assert len(marks(found)) == 1


def test_dropping_begins_again_behind_what_a_reader_has_come_to() -> None:
    """Two times alone, with a reader in between that acknowledges nothing: two marks, and every number once."""
    log = log_alone(cap=64 * KB)
    inbox = Inbox()
    for _ in range(30):
        say(log, "r", "a" * 10_000)
    sent = []
    while not marks(sent):
        sent += inbox.feed(log.poll(inbox.ack, limit=10 * KB))
    log.detach()
    for _ in range(30):
        say(log, "r", "b" * 10_000)
    found = sent + read_all(log, ack=sent[-1]["number"])
    assert [e["number"] for e in found] == list(range(1, len(found) + 1))
    assert len(marks(found)) == 2
    assert sum(n for _, n in marks(found)) + len(texts(found)) == 600_000


def test_a_writer_may_be_made_to_wait_instead() -> None:
    log = log_alone(cap=64 * KB, when_full="block")
    keeper = threading.Thread(target=log.keep_for_ever, daemon=True)
    keeper.start()
    text = "".join(f"{n}\n" for n in range(500_000))
    writer = threading.Thread(target=log.write, args=("r", "stdout", text), daemon=True)
    writer.start()
    farside.wait_until(lambda: log._journal.is_full, "the journal is full")
    assert writer.is_alive()
    found: list[dict[str, Any]] = []
    inbox = Inbox()
    while len(texts(found)) < len(text):
        found += inbox.feed(log.poll(inbox.ack, wait=5))
    writer.join(5)
    assert texts(found) == text
    assert not marks(found)
    log.close()
    keeper.join(5)


def test_a_reader_that_is_there_holds_the_writer_and_one_that_left_does_not() -> None:
    log = events.EventLog(bound=64 * KB, cap=64 << 20)
    keeper = threading.Thread(target=log.keep_for_ever, daemon=True)
    writer = threading.Thread(target=log.write, args=("r", "stdout", "z" * (4 << 20)), daemon=True)
    keeper.start()
    writer.start()
    farside.wait_until(lambda: log._journal.waiting > 64 * KB, "the writer is ahead")
    writer.join(0.1)
    assert writer.is_alive()
    log.detach()
    writer.join(10)
    assert not writer.is_alive()
    assert log.waiting > 4 << 20
    assert texts(read_all(log)) == "z" * (4 << 20)
    log.close()
    keeper.join(5)
    log.forget()


def test_a_reader_unheard_of_for_a_while_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    log = events.EventLog(bound=64 * KB, cap=64 << 20)
    log.poll(0)
    assert log.attached
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + events.ATTACHED + 1)
    assert not log.attached
    assert log.seconds_alone > events.ATTACHED


def test_the_wall_clock_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes backwards and forwards, and nothing depends on it."""
    log = events.EventLog(cap=64 << 20)
    for hours in (-1, 1):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda now=now, hours=hours: now + 3600 * hours)
        began = time.monotonic()
        assert log.poll(0, wait=0.05) == []
        assert 0.04 < time.monotonic() - began < 5
        assert log.attached


# -- a disk that is full ---------------------------------------------------------------------------------------------


def no_file(*args: Any, **options: Any) -> Any:
    raise OSError(errno.EMFILE, "Too many open files")


def test_without_a_file_the_middle_is_dropped_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exception goes to the cell, and the mark gives the reason."""
    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    log = log_alone(cap=64 << 20, bound=256 * KB)
    for _ in range(500):
        say(log, "r", "q" * 10_000)
    assert log._journal.waiting < 3 * journal.BLOCK
    log.append(reply())
    found = read_all(log)
    ((_, dropped),) = marks(found)
    assert dropped + len(texts(found)) == 5_000_000
    assert "could not grow (Too many open files)" in texts(found, "stderr")
    assert found[-1]["type"] == "execute_reply"


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limits how large a file this process may write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_holds_what_it_can(small_files: Callable[[int], None]) -> None:
    log = log_alone(cap=64 << 20, bound=256 * KB)
    small_files(2 << 20)
    for _ in range(1000):
        say(log, "r", "q" * 10_000)
    assert log._journal._spill.size <= 2 << 20
    assert log._journal.waiting > 1 << 20
    found = read_all(log)
    ((_, dropped),) = marks(found)
    assert dropped + len(texts(found)) == 10_000_000
    assert "File too large" in texts(found, "stderr")
    # When there is room again all is as it was.
    small_files(resource.RLIM_INFINITY)
    log.detach()
    for _ in range(500):
        say(log, "r", "p" * 10_000)
    found = read_all(log, ack=found[-1]["number"])
    assert texts(found) == "p" * 5_000_000
    log.close()
    log.forget()


def test_a_file_that_cannot_be_read_is_told_and_breaks_no_number() -> None:
    log = log_alone(cap=64 << 20)
    say(log, "r", "q" * (2 << 20))
    log.append(reply())
    log.keep()
    os.ftruncate(log._journal._spill._file.fileno(), spill.PAGE)
    found = read_all(log)
    assert found[-1]["type"] == "execute_reply"
    assert "the journal's file could not be read" in texts(found, "stderr")


# -- against a model -------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 10**9))
def test_every_event_comes_once_in_order_through_any_reads(seed: int) -> None:
    """Output comes, a reader polls, repeats, acknowledges and goes away at random: every byte is accounted for."""
    rng = random.Random(seed)
    cap = rng.choice([64 * KB, 256 * KB, 4 << 20])
    log = events.EventLog(bound=rng.choice([32 * KB, 128 * KB]), cap=cap, history=rng.choice([0, 100 * KB]))
    log.detach()
    sent: dict[str, list[str]] = {}
    replies: list[str] = []
    inbox, taken, unanswered = Inbox(), [], []
    for step in range(rng.randrange(20, 120)):
        request = f"r{step // 20}"
        what = rng.random()
        if what < 0.6:
            text = f"<{step}>" * rng.randrange(1, 4000)
            sent.setdefault(request, []).append(text)
            log.append(stream(text, request, rng.choice(["stdout", "stdout", "other"])))
        elif what < 0.7:
            replies.append(f"{step}")
            log.append({"type": "x_reply", "request": f"{step}", "content": {}})
        elif what < 0.8:
            log.keep()
        else:
            batch = log.poll(inbox.ack, limit=rng.choice([1, 10 * KB, 1 << 20]))
            for again in unanswered:  # what was sent under a number stays what it is
                for old, new in zip(again, batch, strict=False):
                    assert old == new
            if rng.random() < 0.6:
                taken += inbox.feed(batch)
                unanswered = []
            else:
                unanswered.append(batch)
            if rng.random() < 0.5:
                log.detach()
    while fresh := inbox.feed(log.poll(inbox.ack)):
        taken += fresh
    assert [e["request"] for e in taken if e["type"] == "x_reply"] == replies
    lost = dict.fromkeys(sent, 0)
    for request, count in marks(taken):
        lost[request] += count
    for request, parts in sent.items():
        got = sum(
            len(e["content"]["text"])
            for e in taken
            if e["type"] == "stream" and e["request"] == request and e["content"]["name"] != "stderr"
        )
        assert got + lost[request] == len("".join(parts)), request
    assert log.waiting == 0
    log.close()
    log.forget()
    assert spilled_files() == []


# -- what is acknowledged --------------------------------------------------------------------------------------------


def begin(log: events.EventLog, request: str, code: str = "pass", **more: Any) -> None:
    log.begin({"kind": "execute", "id": request, "code": code, **more})


def run_cell(log: events.EventLog, request: str, text: str) -> None:
    begin(log, request, f"print({request})")
    say(log, request, text)
    log.append({"type": "execute_result", "request": request, "content": {"data": {"text/plain": request}}})
    log.append(reply(request))


def test_a_cell_can_be_had_again_in_order_and_by_pieces() -> None:
    log = events.EventLog(cap=64 << 20, history=1 << 20)
    for n in range(3):
        run_cell(log, f"r{n}", f"{n}" * 40_000)
    read_all(log)
    found: list[dict[str, Any]] = []
    done = False
    while not done:
        batch, done = log.replay("r1", ("stream", "execute_result"), found[-1]["number"] if found else 0, 20_000)
        assert batch
        found += batch
    assert texts(found) == "1" * 40_000
    assert found[-1]["type"] == "execute_result"
    assert [e["number"] for e in found] == sorted({e["number"] for e in found})
    assert log.replay("nobody", ("stream",), 0) == ([], True)
    cells = log.state()["cells"]
    assert [(c["request"], c["status"], c["count"], c["complete"]) for c in cells] == [
        (f"r{n}", "ok", 1, True) for n in range(3)
    ]
    assert all(c["bytes"] >= 40_000 and c["started"] and c["ended"] for c in cells)


def test_what_was_not_sent_yet_is_not_had_twice() -> None:
    log = events.EventLog(cap=64 << 20, history=1 << 20)
    begin(log, "r")
    say(log, "r", "first")
    log.poll(0)
    say(log, "r", "second")
    batch, done = log.replay("r", ("stream",), 0)
    assert (texts(batch), done) == ("first", True)


def test_history_has_its_bounds_in_memory_and_in_the_file() -> None:
    log = events.EventLog(cap=64 << 20, history=4 << 20)
    inbox = Inbox()
    for n in range(100):
        run_cell(log, f"r{n}", f"{n:02}" * 100_000)
        inbox.feed(log.poll(inbox.ack, limit=1 << 30))
    log.poll(inbox.ack)
    kept = log._journal._blocks
    assert sum(block.size for block in kept) < 5 << 20
    assert sum(block.size for block in kept if block.events is not None) < 3 << 20
    assert log._journal._spill.size < 5 << 20
    cells = log.state()["cells"]
    assert cells[-1]["request"] == "r99"
    assert 15 < len(cells) < 25
    assert [c["complete"] for c in cells].count(False) <= 1
    batch, done = log.replay("r90", ("stream",), 0)
    assert (texts(batch), done) == ("90" * 100_000, True)
    assert log.replay("r5", ("stream",), 0) == ([], True)
    log.close()
    log.forget()


def test_cells_that_run_and_wait_are_told() -> None:
    log = events.EventLog(cap=64 << 20)
    begin(log, "a", "x = 1\n" * 100)
    begin(log, "b", "y")
    begin(log, "s", "z", lane="other")
    running = log.state()["running"]
    assert [(c["request"], c["started"] is None) for c in running] == [("a", False), ("b", True), ("s", False)]
    assert len(running[0]["code"]) == 200
    log.append(reply("a"))
    running = log.state()["running"]
    assert [(c["request"], c["started"] is None) for c in running] == [("b", False), ("s", False)]


def test_a_question_that_a_reader_knew_of_is_told_to_the_next() -> None:
    log = events.EventLog(cap=64 << 20)
    begin(log, "r")
    question = {"prompt": "? ", "password": False, "input_id": 7}
    log.append({"type": "input_request", "request": "r", "content": question})
    assert log.state()["inputs"] == []  # it comes by poll
    log.poll(0)
    log.poll(1)
    assert log.state()["inputs"] == [dict(question, request="r")]
    log.answered(7)
    assert log.state()["inputs"] == []


# -- watching --------------------------------------------------------------------------------------------------------


def test_a_watcher_begins_with_the_cell_that_runs_and_sees_what_the_reader_sees() -> None:
    log = events.EventLog(cap=64 << 20, history=1 << 20)
    run_cell(log, "old", "old")
    begin(log, "r")
    say(log, "r", "a")
    read_all(log)
    seen, newest, skipped = log.watch(None)
    assert (texts(seen), skipped) == ("a", 0)
    say(log, "r", "b")
    more, _, _ = log.watch(newest)
    assert texts(more) == "b"
    assert log.waiting > 0  # nobody has acknowledged that
    assert texts(read_all(log, ack=log._journal.acknowledged)) == "b"


def test_watching_is_woken_and_ends_with_the_log() -> None:
    log = events.EventLog(cap=64 << 20)
    seen: list[Any] = []
    threads = [threading.Thread(target=lambda: seen.append(log.watch(0, wait=30)), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    farside.wait_until(lambda: len(log._listeners) == 2, "both watch")
    log.append(reply())
    for thread in threads:
        thread.join(5)
    assert [len(found) for found, _, _ in seen] == [1, 1]
    assert log._listeners == ()
    last = threading.Thread(target=lambda: seen.append(log.watch(1, wait=30)), daemon=True)
    last.start()
    farside.wait_until(lambda: log._listeners, "it watches")
    log.close()
    last.join(5)
    assert seen[-1][0] == []


def test_a_watcher_that_comes_late_is_told_what_it_missed() -> None:
    log = events.EventLog(cap=64 << 20, history=300 * KB)
    inbox = Inbox()
    for _ in range(100):
        say(log, "r", "w" * 16_000)
        inbox.feed(log.poll(inbox.ack))
    log.poll(inbox.ack)
    seen, newest, skipped = log.watch(0)
    assert skipped == seen[0]["number"] - 1 > 0
    assert newest == log.newest


# -- a fork ----------------------------------------------------------------------------------------------------------


def test_a_forked_process_disturbs_no_file() -> None:
    log = log_alone(cap=64 << 20)
    say(log, "r", "before" * 100_000)
    pid = os.fork()
    if pid == 0:
        log.write("r", "stdout", "in the fork" * 10_000)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    say(log, "r", "after" * 100_000)
    assert texts(read_all(log)) == "before" * 100_000 + "after" * 100_000
    log.close()
    log.forget()


# -- producers into which an exception is thrown ---------------------------------------------------------------------


def test_interrupts_at_any_bytecode_of_a_writer_tear_nothing(each_python: farside.Python) -> None:
    """What was written is there, once and in order, and the log goes on, however often its writer is hit."""
    if each_python.version[:2] not in ((3, 6), (3, 8), (3, 11), (3, 13)):
        return  # the machine's other ones do as their neighbours
    done = subprocess.run(
        [each_python.path, str(farside.HERE / "apps" / "event_log.py"), str(AGENT), "50"],
        env=farside.clean_environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["came"] >= 50
    assert answer["kept"]
    assert answer["numbers"] == list(range(1, len(answer["numbers"]) + 1))
    assert answer["lines"] == sorted(set(answer["lines"]))
    assert set(answer["written"]) <= set(answer["lines"])
