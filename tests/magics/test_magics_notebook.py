"""``%%flame`` in a notebook: a stock ipykernel, its messages as a front end gets them; and under nbclient.

What belongs to a cell appears in that cell and in no other, whatever runs at the same time.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import farside
import nbformat
import pytest
from farside import FlameServer, LiveApp, wait_until
from kernels import Kernel, Run, remote_flame
from nbclient import NotebookClient
from places import ok, uncoloured
from widgets import VIEW, Front, kinds, of_model, opened, updates

KERNEL = "python3"


@pytest.fixture(scope="module")
def server() -> Iterator[FlameServer]:
    """A far side for all notebooks here; with a key, so that it is shown in full."""
    server = FlameServer(farside.pythons()[-1], key="the-key-of-the-server-0123456789")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def notebook(server: FlameServer) -> Iterator[Kernel]:
    """A notebook that is connected as ``pi``."""
    with remote_flame(name=KERNEL, env=dict(server.environ())) as kernel:
        ok(kernel.execute("%load_ext flame"))
        ok(kernel.execute(f"%flame connect {server.location} --as pi"))
        yield kernel


def test_shift_tab_shows_the_help_of_our_lines(notebook: Kernel) -> None:
    def page(text: str, at: int) -> str:
        reply = notebook.inspect(text, at)
        return str(reply["data"]["text/plain"]) if reply["found"] else ""

    assert page("x = 1\n%flame connect h:1", 22).startswith("%flame connect [WHERE] [options]\n")
    assert page("%flame conect", 9) == "there is no %flame conect; did you mean %flame connect?"
    assert page("%%flame -t pi\n1", 4).startswith("%%flame [options]\n")
    assert "Return the number of items" in page("%%flame\nlen", 11)


def test_text_comes_while_the_cell_runs(notebook: Kernel, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    run = notebook.submit(
        "%%flame\nimport os, sys, time\nprint('first')\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
        "print('last', file=sys.stderr)"
    )
    notebook.wait_for_output(run, "first")
    assert "last" not in run.stderr
    go_on.touch()
    ok(notebook.wait(run))
    assert (run.stdout, run.stderr) == ("first\n", "last\n")


def test_the_cells_value_has_the_cells_number(notebook: Kernel) -> None:
    run = ok(notebook.execute("%%flame\n6 * 7"))
    (result,) = run.of_type("execute_result")
    assert run.reply is not None
    assert result.content["execution_count"] == run.reply["execution_count"]
    assert ok(notebook.execute("_ + 1")).result == "43"


def test_a_figure(notebook: Kernel) -> None:
    run = ok(notebook.execute("%%flame\nimport matplotlib.pyplot as plt\nplt.plot([3, 1, 4]);"))
    (figure,) = run.displays
    assert figure["image/png"].startswith("iVBOR")


def test_displays_are_changed_in_place(notebook: Kernel) -> None:
    code = "%%flame\nfrom IPython.display import HTML, clear_output, display\n"
    code += "h = display(HTML('<b>1</b>'), display_id='one')\nh.update(HTML('<b>2</b>'))\nclear_output(wait=True)"
    run = ok(notebook.execute(code))
    assert [message.type for message in run.output] == ["display_data", "update_display_data", "clear_output"]
    ids = {message.content["transient"]["display_id"] for message in run.output[:2]}
    assert len(ids) == 1
    assert ids != {"one"}  # which may be a display of this notebook's own
    later = ok(notebook.execute("%%flame\nh.update(HTML('<b>3</b>'))"))
    assert [message.content["transient"]["display_id"] for message in later.output] == [*ids]


def test_an_error_is_the_cells(notebook: Kernel) -> None:
    run = notebook.execute("%%flame\ndef divide(a, b):\n    return a / b\n\ndivide(1, 0)")
    assert run.reply is not None
    assert (run.reply["status"], run.reply["ename"], run.reply["evalue"]) == (
        "error",
        "ZeroDivisionError",
        "division by zero",
    )
    assert run.error is not None
    assert run.error["ename"] == "ZeroDivisionError"
    assert "return a / b" in uncoloured(run.traceback)
    assert "flame_kernel" not in run.traceback
    run = ok(notebook.execute("%%flame --no-raise-error\n1/0"))
    assert "1/0" in uncoloured(run.traceback).replace(" ", "")
    run = notebook.execute("%flame connect localhost:1")
    assert uncoloured(run.traceback).startswith("CannotConnect: cannot reach the flame server at localhost:1")
    assert len(run.traceback.splitlines()) == 1


def test_input_is_asked_here(notebook: Kernel) -> None:
    code = "%%flame\nimport getpass\nprint(input('Name? '), getpass.getpass('Word? '))"
    run = ok(notebook.execute(code, answers=("ada", "secret")))
    assert run.prompts == [("Name? ", False), ("Word? ", True)]
    assert run.stdout == "ada secret\n"
    run = notebook.execute("%%flame\ninput('Name? ')", allow_stdin=False)
    assert "does not support input" in run.traceback


def test_the_console_in_a_notebook(notebook: Kernel) -> None:
    run = ok(notebook.execute("%flame console", answers=("x = 6 * 7", "x", "exit")))
    assert "(Remote console on " in run.stdout
    assert "42" in run.stdout
    assert "(Remote session ended)" in run.stdout


def test_stop_reaches_the_far_side(notebook: Kernel) -> None:
    run = notebook.submit("%%flame\nimport time\nprint('asleep')\ntime.sleep(100)")
    notebook.wait_for_output(run, "asleep")
    began = time.monotonic()
    notebook.interrupt()
    notebook.wait(run)
    assert time.monotonic() - began < 5
    assert "time.sleep(100)" in uncoloured(run.traceback)
    assert ok(notebook.execute("%flame eval 2 ** 10")).result == "1024"


def test_stop_while_a_line_is_typed(notebook: Kernel) -> None:
    run = notebook.submit("%%flame\ninput('Name? ')")
    notebook.wait_for(lambda: run.prompts, "the prompt")
    notebook.interrupt()
    notebook.wait(run)
    assert run.reply is not None
    assert run.reply["ename"] == "KeyboardInterrupt"


def test_a_flood_is_whole(notebook: Kernel) -> None:
    run = ok(notebook.execute("%%flame\nfor n in range(200_000): print(n)", timeout=60))
    assert run.stdout == "".join(f"{n}\n" for n in range(200_000))


def test_output_of_a_job_stays_in_its_cell(notebook: Kernel, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    job = ok(
        notebook.execute(
            "%%flame --bg --out job\nimport os, time\nfrom IPython.display import HTML, display\nprint('begun')\n"
            f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
            "print('job'); display(HTML('<b>job</b>')); 'the value'"
        )
    )
    others = [ok(notebook.execute("%%flame\nprint('cell')")), ok(notebook.execute("print('here')"))]
    go_on.touch()
    notebook.wait_for(lambda: job.result, "the job's value in its own cell")
    ok(notebook.execute("job.wait()"))
    assert job.stdout == "begun\njob\n"
    assert [data["text/html"] for data in job.displays] == ["<b>job</b>"]
    (result,) = job.of_type("execute_result")
    assert job.reply is not None
    assert result.content["execution_count"] == job.reply["execution_count"]
    assert job.result == "'the value'"
    assert [run.stdout for run in others] == ["cell\n", "here\n"]
    assert all(not run.of_type("display_data", "execute_result") for run in others)
    failed = ok(notebook.execute("%%flame --bg\n1/0"))
    notebook.wait_for(lambda: failed.error, "the job's error in its own cell")
    assert failed.error is not None
    assert failed.error["ename"] == "ZeroDivisionError"


def test_a_thread_that_a_cell_leaves_behind_prints_in_that_cell(notebook: Kernel, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    first = ok(
        notebook.execute(
            "%%flame\nimport os, threading, time\ndef late():\n"
            f"    while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
            "    print('late')\nthread = threading.Thread(target=late); thread.start()"
        )
    )
    second = notebook.submit("%%flame\nprint('second')\nthread.join()")
    notebook.wait_for_output(second, "second")
    go_on.touch()
    ok(notebook.wait(second))
    notebook.wait_for(lambda: first.stdout, "the thread's line in its own cell")
    assert (first.stdout, second.stdout) == ("late\n", "second\n")


def test_two_far_sides_at_once_do_not_mix(notebook: Kernel, live_app: Callable[..., LiveApp]) -> None:
    app = live_app()
    ok(notebook.execute(f"%flame connect {app.location} --as app"))
    loop = "\nimport time\nfor n in range(200):\n    print('{0}', n)\n    if n % 20 == 0: time.sleep(0.01)\n'{0}'"
    jobs = {name: ok(notebook.execute(f"%%flame -t {name} --bg" + loop.format(name))) for name in ("pi", "app")}
    cells = [notebook.submit(f"%%flame -t {name}" + loop.format(f"{name} cell")) for name in ("app", "pi")]
    for run in cells:
        ok(notebook.wait(run))
    for run in jobs.values():
        notebook.wait_for(lambda run=run: run.result, "the job's value")  # type: ignore[misc]
    for run, word in [*zip(jobs.values(), jobs, strict=True), (cells[0], "app cell"), (cells[1], "pi cell")]:
        assert run.stdout == "".join(f"{word} {n}\n" for n in range(200))
        assert run.result == repr(word)
    ok(notebook.execute("%flame disconnect app"))
    ok(notebook.execute("%flame use pi"))


def test_cells_of_threads_and_of_a_subshell_do_not_mix(notebook: Kernel) -> None:
    subshell = notebook.ask("create_subshell_request", channel="control")["subshell_id"]
    loop = "%%flame\nimport time\nfor n in range(30):\n    print('{0}', n)\n    time.sleep(0.005)"
    runs: dict[str, Run] = {
        "main": notebook.submit(loop.format("main")),
        "sub": notebook.submit(loop.format("sub"), subshell=subshell, store_history=False),  # as Out is main's
    }
    for word, run in runs.items():
        ok(notebook.wait(run))
        assert run.stdout == "".join(f"{word} {n}\n" for n in range(30))
    notebook.ask("delete_subshell_request", {"subshell_id": subshell}, channel="control")


def test_two_notebooks_do_not_mix(notebook: Kernel, server: FlameServer) -> None:
    before = len(server.children())
    with remote_flame(name=KERNEL, env=dict(server.environ())) as other:
        ok(other.execute("%load_ext flame_kernel"))
        ok(other.execute("%flame connect"))  # where FLAME_TARGET says
        loop = "%%flame\nwhere = '{0}'\nimport time\nfor n in range(50):\n    print('{0}', n)\n    time.sleep(0.002)"
        first, second = notebook.submit(loop.format("one")), other.submit(loop.format("two"))
        ok(notebook.wait(first))
        ok(other.wait(second))
        assert first.stdout == "".join(f"one {n}\n" for n in range(50))
        assert second.stdout == "".join(f"two {n}\n" for n in range(50))
        assert ok(notebook.execute("%flame eval where")).result == "'one'"
        assert ok(other.execute("%flame eval where")).result == "'two'"
        ok(other.execute("%%flame --bg\nimport time\nwhile True: time.sleep(0.01)"))
        assert len(server.children()) > before
    wait_until(lambda: len(server.children()) == before, "the end of the other notebook's process there")


def test_a_page_to_read(notebook: Kernel) -> None:
    run = ok(notebook.execute("%%flame\nlen?"))
    assert run.reply is not None
    (payload,) = run.reply["payload"]
    assert payload["source"] == "page"
    assert "number of items" in payload["data"]["text/plain"]


def test_tab_in_a_notebook(notebook: Kernel) -> None:
    ok(notebook.execute("%%flame\nfar_colour = 1"))
    assert notebook.complete("%%flame\nif True:\n    far_col")["matches"] == ["far_colour"]
    assert notebook.complete("%flame push --tar")["matches"] == ["--target"]


def test_every_line_of_flames_manual_under_nbclient(server: FlameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    cells = [
        "%load_ext flame",
        "%flame connect --as flame",
        "%flame module socket as socketmodule\n%flame module os as osmodule",
        "print('remote host name=', socketmodule.gethostname())",
        "print('remote server directory contents=', osmodule.listdir('.'))",
        "%flame exec import math",
        "root = %flame eval math.sqrt(500)\nprint('calculated square root=', root)",
        "print('remote exceptions also work', flame.evaluate('1//0'))",
        "%flame builtin print as rprint\nrprint('Hello there, remote server stdout!')",
        "%%flame\ninput()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name=KERNEL, timeout=60, allow_errors=True).execute()
    shown = [
        "".join(output.get("text") or output.get("ename") or "" for output in cell.outputs) for cell in notebook.cells
    ]
    assert shown[3] == f"remote host name= {socket.gethostname()}\n"
    assert shown[4] == f"remote server directory contents= {os.listdir(server.cwd)}\n"
    assert shown[6].startswith("calculated square root= 22.3606797")
    assert shown[7] == "ZeroDivisionError"
    assert shown[8] == "Hello there, remote server stdout!\n"
    assert shown[9] == "StdinNotImplementedError"


def test_widgets_are_shown_and_their_callbacks_run_there(notebook: Kernel, server: FlameServer) -> None:
    front = Front(notebook)
    code = "import os, time, ipywidgets as w\ns, out, b = w.IntSlider(), w.Output(), w.Button()\n"
    code += "s.observe(lambda c: print('now', c.new, os.getppid()), 'value')\nwith out: print('in')\ns"
    run = ok(notebook.execute(f"%%flame\n{code}"))
    slider, out, button = (of_model(run, name) for name in ("IntSliderModel", "OutputModel", "ButtonModel"))
    assert run.of_type("execute_result")[0].content["data"][VIEW]["model_id"] == slider
    assert updates(run, out) == [
        {"msg_id": run.id},
        {"msg_id": ""},
    ]  # the front end's id of the cell, not the far side's
    moved = front.move(slider, value=7)
    told = f"stdout now 7 {server.pid}\n"
    assert kinds(moved) == ["busy", "comm_msg echo_update {'value': 7}", told, "idle"]
    assert updates(ok(notebook.execute("%%flame\ns.value = 42")), slider) == [{"value": 42}]
    click = "def click(_):\n    with out:\n        print('clicked')\n    1 / 0\nb.on_click(click)"
    ok(notebook.execute(f"%%flame\n{click}"))
    clicked = front.click(button)
    assert clicked.stdout == "clicked\n"
    assert updates(clicked, out) == [{"msg_id": clicked.id}, {"msg_id": ""}]
    assert clicked.error
    assert clicked.error["ename"] == "ZeroDivisionError"
    # While a cell is waited for: by the subshell that the front end names, as JupyterLab does.
    subshell = front.subshell()
    busy = notebook.submit("%%flame\nprint('go')\nwhile s.value != 9: time.sleep(0.01)\nprint('saw', s.value)")
    notebook.wait_for_output(busy, "go")
    data = {"method": "update", "state": {"value": 9}, "buffer_paths": []}
    moved = front.send("comm_msg", slider, data, subshell=subshell)
    assert f"now 9 {server.pid}\n" in moved.stdout
    assert ok(notebook.wait(busy)).stdout == "go\nsaw 9\n"
    # Pictures there, uploads from here, and what a page that is opened anew asks of each widget.
    run = ok(notebook.execute("%%flame\nim = w.Image(value=b'png' * 100)"))
    image = of_model(run, "ImageModel")
    (message,) = [m for m in run.of_type("comm_open") if m.buffers]
    assert bytes(message.buffers[0]) == b"png" * 100
    data = {"method": "update", "state": {}, "buffer_paths": [["value"]]}
    front.send("comm_msg", image, data, buffers=[b"new"])
    assert ok(notebook.execute("%%flame\nbytes(im.value)")).result == "b'new'"
    assert {slider, out, button, image} <= set(front.known("jupyter.widget"))
    (asked,) = front.send("comm_msg", slider, {"method": "request_state"}).of_type("comm_msg")
    assert asked.content["data"]["state"]["value"] == 9
    closed = ok(notebook.execute("%%flame\ns.close()"))
    assert [m.content["comm_id"] for m in closed.of_type("comm_close")] == [slider]
    assert slider not in front.known()
    notebook.ask("delete_subshell_request", {"subshell_id": subshell}, channel="control")


def test_a_bar_of_tqdm_in_a_job(notebook: Kernel) -> None:
    run = ok(notebook.execute("%%flame --bg -o job\nfrom tqdm.auto import tqdm\nfor i in tqdm(range(3)): pass"))
    notebook.wait_for(lambda: {"bar_style": "success"} in [u for c in opened(run) for u in updates(run, c)], "the bar")
    assert opened(run)[of_model(run, "FloatProgressModel")]["max"] == 3.0


def test_looking_in_while_a_job_runs(notebook: Kernel) -> None:
    """``where``, ``watch`` and ``top``: once, and in outputs that are renewed in place."""
    ok(
        notebook.execute(
            "%%flame\nimport time\ncount = 0\ndef step():\n    global count\n    count += 1; time.sleep(0.01)"
        )
    )
    ok(notebook.execute("%%flame --bg --out job\nfor n in range(10 ** 6):\n    step()"))
    wait_until(lambda: "      step()" in ok(notebook.execute("%flame where")).stdout, "the job in a stack")
    text = ok(notebook.execute("%flame where --all")).stdout
    assert "In[" in text
    assert "flame_agent" not in text
    assert ok(notebook.execute("%flame top -t pi")).stdout.startswith("pid ")
    watch = ok(notebook.execute("%flame watch count * 2 --every 0.2"))
    (shown,) = watch.displays
    assert shown["text/plain"].startswith("count * 2 = ")

    def latest() -> str:
        changes = watch.of_type("update_display_data")
        return str(changes[-1].content["data"]["text/plain"]) if changes else ""

    notebook.wait_for(lambda: latest() not in ("", shown["text/plain"]), "a value that grows")
    ok(notebook.execute("job.cancel()"))
    notebook.wait_for(lambda: ok(notebook.execute("print(job.state)")).stdout == "stopped\n", "the end of the job")
    assert ok(notebook.execute("%flame watch --end")).stdout == "stopped watching count * 2\n"
    notebook.wait_for(lambda: latest().endswith("(ended)"), "the end of the view")
    run = notebook.execute("%flame watch")
    assert run.reply is not None
    assert "nothing to watch: %flame watch EXPRESSION" in run.reply["evalue"]
    assert ok(notebook.execute("print(pi.where())")).stdout.startswith("no cell runs (pid ")
    assert str(ok(notebook.execute("pi.top()")).result).startswith("pid ")
