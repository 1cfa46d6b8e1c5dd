"""Looking in while a cell runs: ``%flame where``, ``watch`` and ``top``, which overtake it; and what does not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psutil
import pytest
from farside import pythons, wait_until
from kernels import Kernel, Run
from places import PLACES, Site, kernel_at, ok

# A cell with something to see: names of an earlier one, a library in between, a thread and a task beside it.
BEFORE = """\
import asyncio, threading, time
results, over = [], threading.Event()
def inner():
    while not over.is_set():
        time.sleep(0.01)
def outer(n):
    return [inner() for _ in range(n)]
worker = threading.Thread(target=over.wait, name="worker")
worker.start()
"""
AFTER = "over.set(); worker.join()"

# Where a cell may await; the newest Python without IPython runs the bare ones.
BARE_AWAITS = [python.version for python in pythons() if not python.ipython][-1:] >= [(3, 8)]
AWAITING = [place for place in PLACES if BARE_AWAITS or not place.endswith("-bare")]


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as site:
        ok(site.kernel.execute("import os"))
        yield site


def begun(k: Kernel, code: str) -> Run:
    """A cell that says ``go``, and has done so."""
    run = k.submit(code)
    k.wait_for_output(run, "go")
    return run


def look(k: Kernel, order: str) -> str:
    """What an order says."""
    return ok(k.execute(order)).stdout


def test_where_the_cell_is(site: Site) -> None:
    k = site.kernel
    ok(k.execute(BEFORE))
    count = int(ok(k.execute("0")).of_type("execute_input")[0].content["execution_count"])
    run = begun(k, "print('go', flush=True)\n\nouter(1)")
    seen: list[str] = []

    def deep() -> bool:
        seen.append(look(k, "%flame where"))
        return "in inner" in seen[-1]

    wait_until(deep, "the cell in its innermost function")
    text = seen[-1]
    assert run.reply is None
    head, *lines = text.splitlines()
    place = "a child of the server" if site.in_child else "the server's own process"
    assert re.fullmatch(rf"cell: pid \d+, {place}(, (running|waiting))?, for \d+\.\d s", head)
    assert lines[:2] == [f"  In[{count + 1}], line 3, in {lines[0].rpartition(' in ')[2]}", "      outer(1)"]
    assert f"  In[{count - 1}], line 7, in outer" in lines
    assert "      return [inner() for _ in range(n)]" in lines
    assert f"  In[{count - 1}], line 5, in inner" in lines or f"  In[{count - 1}], line 4, in inner" in lines
    assert "flame_agent" not in text
    assert "worker" not in text
    assert re.search(r"^\d+ more threads? or tasks?: %flame where --all$", text, re.MULTILINE)
    # All: the thread beside it, and what the app does, but nothing of ours.
    text = look(k, "%flame where --all")
    assert re.search(r"^thread worker(: waiting)?\n.*threading\.py, line \d+, in wait\n", text, re.MULTILINE)
    assert "flame_agent" not in text
    assert "flame-" not in text
    if not site.in_child:
        assert "Pyro4" in text  # its server's own threads are part of the app
    assert run.reply is None
    ok(k.execute("%flame status"))
    assert "busy" in look(k, "%flame sessions")
    # The cell has not noticed anything.
    subshell = k.ask("create_subshell_request", channel="control")["subshell_id"]
    ok(k.execute(AFTER, subshell=subshell))
    ok(k.wait(run))
    k.ask("delete_subshell_request", {"subshell_id": subshell}, channel="control")
    assert look(k, "%flame where").startswith("no cell runs (pid ")


@pytest.mark.parametrize("site", AWAITING, indirect=True)
def test_where_a_cell_awaits(site: Site) -> None:
    """What it awaits is on no thread's stack; nor is a task that it has left behind."""
    k = site.kernel
    ok(k.execute("import asyncio"))
    ok(
        k.execute(
            "async def nap(s):\n    await asyncio.sleep(s)\ntask = asyncio.ensure_future(nap(1000))\nawait nap(0)"
        )
    )
    run = begun(k, "print('go', flush=True)\nawait nap(1000)")
    wait_until(lambda: "awaiting" in look(k, "%flame where"), "a cell that awaits")
    text = look(k, "%flame where --all")
    assert re.search(
        r"line 2, in .*\n      await nap\(1000\)\n  In\[\d+\], line 2, in nap\n      await asyncio\.sleep", text
    )
    assert len(re.findall(r"line 2, in nap\n", text)) == 2
    assert re.search(r"^task .*awaiting\n  In\[\d+\], line 2, in nap", text, re.MULTILINE)
    k.interrupt()
    k.wait(run)
    ok(k.execute("task.cancel()"))


def test_a_view_of_where_is_renewed_in_place(site: Site) -> None:
    k = site.kernel
    ok(k.execute(BEFORE))
    view = ok(k.execute("%flame where --every 0.2"))
    (shown,) = view.of_type("display_data")
    assert shown.content["data"]["text/plain"].startswith("no cell runs")
    run = begun(k, "print('go', flush=True); outer(1)")

    def latest() -> str:
        changes = [m for m in view.messages if m.type == "update_display_data"]
        assert all(m.content["transient"] == shown.content["transient"] for m in changes)
        return str(changes[-1].content["data"]["text/plain"]) if changes else ""

    k.wait_for(lambda: "in inner" in latest(), "the cell in the view")
    k.interrupt()
    k.wait(run)
    k.wait_for(lambda: "no cell runs" in latest(), "the end of the cell in the view")
    assert look(k, "%flame where --end") == "stopped watching where\n"
    k.wait_for(lambda: latest().endswith("(ended)"), "the end of the view")
    assert look(k, "%flame where --end") == "nothing is being watched\n"
    ok(k.execute(AFTER))


def test_a_watched_value_follows_the_cells(site: Site) -> None:
    """While cells run, one after the other, after a Stop, and until its end is asked for."""
    k = site.kernel
    ok(k.execute(BEFORE))
    watch = ok(k.execute("%flame watch len(results) --every 0.2"))
    assert watch.displays == [{"text/plain": "len(results) = 0"}]

    def latest() -> str:
        changes = watch.of_type("update_display_data")
        return str(changes[-1].content["data"]["text/plain"]) if changes else ""

    run = begun(k, "print('go', flush=True)\nwhile True:\n    results.append(1); time.sleep(0.001)")
    k.wait_for(lambda: int((latest() or "0").split()[-1]) > 3, "a value that grows")
    assert run.reply is None
    k.interrupt()
    k.wait(run)
    ok(k.execute("results[:] = [1, 2]"))
    k.wait_for(lambda: latest() == "len(results) = 2", "the value after a Stop")
    # An error is a value for a while; what it prints is the watcher's.
    other = ok(k.execute("%flame watch print('seen') or later['x'] --every 0.2"))
    assert other.displays[0]["text/plain"].startswith("print('seen') or later['x']: NameError")
    ok(k.execute("later = {'x': 'here'}"))
    k.wait_for(
        lambda: any("'here'" in m.content["data"]["text/plain"] for m in other.of_type("update_display_data")),
        "the value where there was none",
    )
    assert "seen" in other.stdout
    assert look(k, "%flame watch --end len(results)") == "stopped watching len(results)\n"
    k.wait_for(lambda: latest().endswith("= 2\n(ended)"), "the end")
    assert look(k, "%flame watch --end") == "stopped watching print('seen') or later['x']\n"
    assert site.kernel.execute("results").result == "[1, 2]"
    ok(k.execute(AFTER))


def test_what_it_uses(site: Site) -> None:
    k = site.kernel
    pid = int(ok(k.execute("import os, subprocess; kept = open('/dev/zero'); os.getpid()")).result or 0)
    run = begun(k, "print('go', flush=True)\nwhile True: pass")
    ok(k.execute("1", silent=True, subshell=None)) if run.done else None
    text = look(k, "%flame top")
    assert text.startswith(f"pid {pid} on ")
    cpu = re.search(r"^CPU +(\d+\.\d) % of one CPU +\(machine: \d+ CPUs, load ", text, re.MULTILINE)
    assert cpu is not None
    assert float(cpu.group(1)) > 0
    assert re.search(r"^memory +\d+(\.\d)? MiB +\(machine: .* used\)$", text, re.MULTILINE)
    assert re.search(r"^threads \d+\n +\d+\.\d %  ", text, re.MULTILINE)
    assert re.search(r"^  \d+ /dev/zero$", text, re.MULTILINE)
    k.interrupt()
    k.wait(run)
    ok(k.execute("kept.close(); p = subprocess.Popen(['sleep', '1000'])"))
    assert re.search(r"^subprocesses 1\n +0\.0 % +\S+ [MKiB]+ +sleep \(pid \d+\)$", look(k, "%flame top"), re.MULTILINE)
    ok(k.execute("p.kill(); _ = p.wait()"))


@pytest.mark.parametrize("name", ["child", "child-bare"])
def test_a_child_whose_interpreter_is_held_is_seen_from_outside(name: str) -> None:
    """Its side thread cannot speak then; the system and ``faulthandler`` can."""
    with kernel_at(name) as site:
        k = site.kernel
        ok(k.execute("def spin(n):\n    return sum(range(n))"))
        pid = int(str(ok(k.execute("import os; os.getpid()")).result))
        watch = ok(k.execute("%flame watch 1 + 1 --every 0.2"))
        run = begun(k, "print('go', flush=True)\nspin(10 ** 13)")
        text = look(k, "%flame where")
        assert text.startswith("seen from outside, as its interpreter does not answer")
        assert re.search(r"^  the cell, line 2, in .*\n      spin\(10 \*\* 13\)$", text, re.MULTILINE)
        assert re.search(r"^  a cell, line 2, in spin\n      return sum\(range\(n\)\)$", text, re.MULTILINE)
        assert float((re.search(r"CPU +(\d+\.\d) %", look(k, "%flame top")) or [0, "0"])[1]) > 0
        silent = "(no answer since "
        k.wait_for(
            lambda: any(silent in m.content["data"]["text/plain"] for m in watch.of_type("update_display_data")), silent
        )
        assert run.reply is None
        k.restart()
        # The server ends it, by signals; without a server nobody would, as it cannot see that.
        wait_until(lambda: not psutil.pid_exists(pid), "the end of the child that was held")


def test_what_stays_in_line(site: Site) -> None:
    """Code, orders that change where cells run, and orders behind a cell that waits: none of them overtakes."""
    k = site.kernel
    run = begun(k, "import time\nprint('go', flush=True)\nwhile 'stop' not in globals(): time.sleep(0.01)")
    waiting = [k.submit(code) for code in ("'cell'", "%flame replay", "%flame where\n'mixed'")]
    waiting += [k.submit(code) for code in ("%flame where", "%flame help")]
    asked = k.request("kernel_info_request")  # as a page that has lost its kernel does
    # Another page asks, and is answered, as nothing of its own waits.
    front = k.client.session.session
    k.client.session.session = "another-" + front
    assert "cell: pid" in look(k, "%flame where")
    k.client.session.session = front
    assert all(one.reply is None for one in [run, *waiting, asked])
    subshell = k.ask("create_subshell_request", channel="control")["subshell_id"]
    # A subshell asks as well, and is answered, whatever the main shell does.
    assert "cell: pid" in ok(k.execute("%flame where", subshell=subshell)).stdout
    ok(k.execute("stop = 1", subshell=subshell))
    for one in [run, *waiting, asked]:
        ok(k.wait(one))
    assert [one.result for one in waiting] == ["'cell'", "'cell'", "'mixed'", None, None]
    assert waiting[3].stdout.startswith("no cell runs (pid ")
    k.ask("delete_subshell_request", {"subshell_id": subshell}, channel="control")
    ok(k.execute("del stop"))


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("%flame watch", "nothing to watch: %flame watch EXPRESSION"),
        ("%flame watch --every 2", "nothing to watch: %flame watch EXPRESSION"),
        ("%flame watch x --every soon", '--every is a time such as 3600, "90 min" or "24 h"; not \'soon\''),
        ("%flame where --every 0", "--every is at least 0.2 s; not '0'"),
        ("%flame where everything", "%flame where takes no arguments, so not 'everything'"),
        ("%flame top --all", "%flame top has no option --all; %flame help top lists its options"),
    ],
)
def test_what_is_no_order(site: Site, order: str, said: str) -> None:
    if site.name != "child":
        return
    run = site.kernel.execute(order)
    assert run.error is not None
    assert said in run.error["evalue"]
