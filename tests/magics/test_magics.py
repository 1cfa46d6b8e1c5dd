"""``%flame`` and ``%%flame`` in an IPython of this process, against stock Flame servers."""

from __future__ import annotations

import getpass
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import farside
import pytest
from farside import FlameServer, LiveApp, wait_until
from notebook_shell import Shell, ipython, is_one_sentence

from flame_kernel.commands.language import commands
from flame_kernel.commands.options import MAGICS

KEY = "the-key-of-the-server-0123456789"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """An IPython that is not connected."""
    with ipython(tmp_path) as shell:
        yield shell


@pytest.fixture(scope="module")
def connected(server: FlameServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """An IPython connected to ``server`` as ``pi``, for all tests that leave it so."""
    with ipython(tmp_path_factory.mktemp("connected")) as shell:
        shell.ok(f"%flame connect {server.location} --as pi")
        shell.ok("%flame module os as far_os")  # a stand-in: its releaser's thread is there from now on
        yield shell


@pytest.fixture
def pi(connected: Shell) -> Iterator[Shell]:
    """The same, with the settings that it begins with."""
    yield connected
    for setting in ("block = True", "raise_error = True", "timeout = 0"):
        connected.ok(f"%config FlameMagics.{setting}")


# -- the manual's example --------------------------------------------------------------------------------------------


def test_every_line_of_flames_manual(shell: Shell, server: FlameServer) -> None:
    shell.ok(f"%flame connect {server.location} --as flame")
    shell.ok("%flame module socket as socketmodule")
    shell.ok("%flame module os as osmodule")
    import socket

    assert shell.ok("socketmodule.gethostname()").value == socket.gethostname()
    assert shell.ok("osmodule.listdir('.')").value == os.listdir(server.cwd)
    shell.ok("%flame exec import math")
    root = shell.ok("root = %flame eval math.sqrt(500)\nroot")
    assert root.value == pytest.approx(22.360679775)
    failed = shell.run("%flame eval 1//0")
    assert isinstance(failed.error, ZeroDivisionError)
    assert "1//0" in failed.text
    assert "flame_kernel" not in failed.text
    shell.ok("%flame builtin print as rprint")
    assert shell.ok('rprint("Hello there, remote server stdout!")').out == "Hello there, remote server stdout!\n"


# -- cells -----------------------------------------------------------------------------------------------------------


def test_the_cells_value_is_here_as_ipython_has_it(pi: Shell) -> None:
    ran = pi.ok("%%flame\nx = 6\nx * 7")
    assert ran.out.strip().endswith("42")
    assert "Out[" in ran.out
    assert ran.value == 42
    assert pi.ok("_ + 1").value == 43
    assert pi.ok("_, __").value == (43, 42)
    number = pi.ip.execution_count
    pi.ok("%%flame\n{'a': (1, 2.5, None)}")
    assert pi["Out"][number] == {"a": (1, 2.5, None)}
    assert pi["_"] is pi["Out"][number]
    assert pi.ok("%%flame\n5;").out == ""
    assert pi.ok("%%flame\ny = 5").out == ""


def test_a_value_that_stays_there_is_an_object_here(pi: Shell) -> None:
    ran = pi.ok("%%flame\nclass Lamp:\n    lit = False\nlamp = Lamp(); lamp")
    assert "Lamp" in ran.out
    pi.ok("_.lit = True")
    assert pi.ok("%flame eval lamp.lit").value is True


def test_line_values(pi: Shell) -> None:
    assert pi.ok("value = %flame eval [n * n for n in range(3)]\nvalue").value == [0, 1, 4]
    assert pi.ok("%flame eval {'a': 1}['a']").value == 1
    assert pi.ok("%flame eval -- -5").value == -5
    assert pi.ok("%flame eval 6*7;").out == ""
    assert pi.ok("%flame exec print('there'); 8").out.splitlines()[0] == "there"
    assert pi["_"] == 8


def test_text_comes_while_the_cell_runs(pi: Shell, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    watching = pi.when_seen("first", go_on.touch)
    ran = pi.ok(
        "%%flame\nimport os, sys, time\nprint('first')\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
        "print('last', file=sys.stderr)"
    )
    watching.join()
    assert (ran.out, ran.err) == ("first\n", "last\n")


def test_an_error_has_the_far_sides_traceback(pi: Shell) -> None:
    ran = pi.run("%%flame\ndef divide(a, b):\n    return a / b\n\ndivide(1, 0)")
    assert isinstance(ran.error, ZeroDivisionError)
    assert str(ran.error) == "division by zero"
    assert "return a / b" in ran.text
    assert "divide(1, 0)" in ran.text
    assert "flame_kernel" not in ran.text
    defined = pi.ip.execution_count
    pi.ok("%%flame\ndef later():\n    return 1 / 0")
    pi.ok("pass")
    called = pi.ip.execution_count
    ran = pi.run("%%flame\nlater()")
    assert f"Cell In[{defined}], line 2" in ran.text
    assert f"Cell In[{called}], line 1" in ran.text
    ran = pi.run("%%flame\nclass Broken(Exception): pass\nraise Broken('so')")
    assert "Broken: so" in ran.text
    assert "flame_kernel" not in ran.text


def test_an_error_that_is_not_raised(pi: Shell) -> None:
    ran = pi.ok("%%flame --no-raise-error --out job\n1/0")
    assert "ZeroDivisionError" in ran.text
    assert isinstance(pi["job"].error, ZeroDivisionError)
    pi.ok("%config FlameMagics.raise_error = False")
    assert "NameError" in pi.ok("%%flame\nnowhere").text


def test_variables_go_there_and_come_back(pi: Shell) -> None:
    pi["a"], pi["b"] = [1, 2], {"k": (3,)}
    pi.ok("%%flame -i a -i b -o c -o d\nc = a + [b['k']]\nd = {1.5: None}")
    assert pi["c"] == [1, 2, (3,)]
    assert pi["d"] == {1.5: None}
    pi.ok("%flame push a b=a + [3] if True else 0 text='x  y' f=len(a) or 1")
    assert pi.ok("%flame eval (a, b, text, f)").value == ([1, 2], [1, 2, 3], "x  y", 2)
    pi.ok("%%flame\nback = set('ab')")
    pi.ok("%flame pull back text")
    assert (pi["back"], pi["text"]) == ({"a", "b"}, "x  y")


def test_arrays_go_there_and_come_back(pi: Shell) -> None:
    pi.ok("import numpy as np; field = np.arange(400_000.0).reshape(1000, 400)")
    pi.ok("%%flame -i field -o total -o turned\ntotal, turned = float(field.sum()), field.T.copy()")
    assert pi["total"] == pi["field"].sum()
    assert (pi["turned"] == pi["field"].T).all()


def test_a_cell_runs_here_too(pi: Shell) -> None:
    ran = pi.ok("%%flame --local\nimport os\nwhere = os.getpid()\nprint('pid', where)")
    assert f"pid {os.getpid()}\n" in ran.out
    assert ran.out.count("pid ") == 2
    assert pi["where"] == os.getpid()
    assert pi.ok("%flame eval where").value != os.getpid()


def test_what_is_typed_goes_there(pi: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str = "") -> str:
        asked.append(prompt)
        return f"answer {len(asked)}"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(getpass, "getpass", answer)
    pi.ok("%%flame -o told\nimport getpass\ntold = input('Name? '), getpass.getpass('Word? ')")
    assert pi["told"] == ("answer 1", "answer 2")
    assert [prompt.rpartition("] ")[2] for prompt in asked] == ["Name? ", "Word? "]

    def nobody(prompt: str = "") -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    assert "EOFError" in pi.run("%%flame\ninput()").text


def test_what_is_typed_while_the_cell_runs_here_too(pi: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["here", "there"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(answers))
    pi.ok("%%flame --local -o there\nword = input('Word? ')\nthere = word")
    assert (pi["word"], pi["there"]) == ("here", "there")


def test_a_thread_that_asks_when_nobody_waits(pi: Shell) -> None:
    pi.ok(
        "%%flame\nimport threading\nasked = []\ngo_on = threading.Event()\ndef ask():\n    go_on.wait()\n"
        "    try: input('Name? ')\n    except EOFError: asked.append('nobody')\n"
        "thread = threading.Thread(target=ask); thread.start()"
    )
    pi.ok("%flame exec go_on.set(); thread.join(20)")
    assert pi.ok("%flame eval asked").value == ["nobody"]


def test_ctrl_c_stops_the_far_side(pi: Shell) -> None:
    watching = pi.when_seen("asleep", pi.ctrl_c)
    ran = pi.run("%%flame\nimport time\nprint('asleep')\ntime.sleep(100)")
    watching.join()
    assert isinstance(ran.error, KeyboardInterrupt)
    assert "time.sleep(100)" in ran.text
    assert "flame_kernel" not in ran.text
    assert ran.seconds < 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert pi.ok("%flame eval 2 ** 10").value == 1024


def test_ctrl_c_stops_a_line_too(pi: Shell) -> None:
    watching = pi.when_seen("asleep", pi.ctrl_c)
    ran = pi.run("%flame eval [print('asleep'), __import__('time').sleep(100)]")
    watching.join()
    assert isinstance(ran.error, KeyboardInterrupt)
    assert "flame_kernel" not in ran.text
    assert ran.seconds < 10


def test_ctrl_c_while_a_line_is_typed(pi: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(prompt: str = "") -> str:
        pi.ctrl_c()
        time.sleep(10)
        raise AssertionError("not interrupted")

    monkeypatch.setattr("builtins.input", interrupted)
    ran = pi.run("%%flame\ninput('Name? ')")
    assert isinstance(ran.error, KeyboardInterrupt)
    assert pi.ok("%flame eval 3").value == 3


def test_a_cell_that_takes_too_long(pi: Shell) -> None:
    is_one_sentence(pi.run("%%flame --timeout 0.3\nimport time\ntime.sleep(100)"), "did not end within 0.3 s")
    pi.ok("%config FlameMagics.timeout = 0.3")
    is_one_sentence(pi.run("%%flame\ntime.sleep(100)"), "did not end within 0.3 s")
    assert pi.ok("%%flame --timeout 60\n3").value == 3


def test_looking_in_at_a_terminal(pi: Shell) -> None:
    """Once; and again and again, until Ctrl-C, which ends nothing else."""
    assert pi.ok("%flame where").out.startswith("no cell runs (pid ")
    assert pi.ok("%flame top").out.startswith("pid ")
    assert pi.ok("pi.where(everything=True)").value.startswith("no cell runs")
    pi.ok("%flame exec looks = []")
    watching = pi.when_seen("len(looks) = 0\nlen(looks) = 1", pi.ctrl_c)
    begun = pi.when_seen("len(looks) = 0\n", lambda: pi["pi"].execute("looks.append(1)"))
    assert "(ended)" in pi.ok("%flame watch len(looks) --every 0.2").out
    begun.join()
    watching.join()
    assert pi.ok("%flame watch --end").out == "nothing is being watched\n"


def test_a_cell_that_does_not_stop_is_abandoned(shell: Shell, live_app: Callable[..., LiveApp]) -> None:
    app = live_app()
    shell.ok(f"%flame connect {app.location}")
    watching = shell.when_seen("A second Stop abandons it", shell.ctrl_c)
    first = shell.when_seen("asleep", shell.ctrl_c)
    ran = shell.run("%%flame\nimport time\nprint('asleep')\ntime.sleep(30)")
    first.join()
    watching.join()
    assert isinstance(ran.error, KeyboardInterrupt)
    assert ran.seconds < 20
    assert shell.ok("%flame eval 3").value == 3
    shell.ok("%flame disconnect")


def test_rich_output_and_capture(shell: Shell, tmp_path: Path) -> None:
    server = FlameServer(farside.pythons()[-1], key=KEY)
    try:
        (tmp_path / "key").touch(mode=0o600)
        (tmp_path / "key").write_text(KEY)
        shell.ok(f"%flame connect {server.location} --key-file {tmp_path / 'key'}")
        shell.ok(
            "%%capture seen\n%%flame\nfrom IPython.display import HTML, display\n"
            "print('text'); h = display(HTML('<b>1</b>'), display_id='one'); h.update(HTML('<b>2</b>'))\n"
            "HTML('<i>3</i>')"
        )
        seen = shell["seen"]
        assert seen.stdout == "text\n"
        assert [one.data.get("text/html") for one in seen.outputs] == ["<b>1</b>", "<b>2</b>", "<i>3</i>"]
        first, second = (one.transient["display_id"] for one in seen.outputs[:2])
        assert first == second != "one"
        assert seen.outputs[1].update
    finally:
        shell.ok("%flame disconnect")
        server.stop()


def test_fast_cells_are_captured_whole(pi: Shell) -> None:
    for _ in range(10):
        assert pi.ok("%%capture seen\n%%flame\nprint('text')").out == ""
        assert pi["seen"].stdout == "text\n"


def test_of_a_server_that_nobody_vouches_for_text_is_shown(pi: Shell) -> None:
    pi.ok("%%capture seen\n%%flame\nfrom IPython.display import HTML\nHTML('<b>1</b>')")
    (shown,) = pi["seen"].outputs
    assert set(shown.data) == {"text/plain"}
    assert pi["seen"].stderr.startswith("HTML and widgets are off: this server has no key; ")
    assert pi["seen"].stderr.count("\n") == 1
    assert pi.ok("%%flame --out job\nprint('\\x1b]0;title\\x07text')").out == "text\n"
    assert pi["job"].output == "text\n" or "not shown" in pi["job"].output


def test_widgets_are_text_in_one_sentence(pi: Shell) -> None:
    ran = pi.ok("%%flame\nimport ipywidgets\nipywidgets.IntSlider(value=3)\n")
    assert "IntSlider(value=3)" in ran.out
    assert ran.err.count("HTML and widgets are off") <= 1  # once a session
    assert len(ran.err.splitlines()) <= 1


# -- jobs ------------------------------------------------------------------------------------------------------------


def test_a_job_goes_on_while_other_cells_run(pi: Shell, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    job = pi.ok(
        "%%flame --bg -o steps\nimport os, time\nprint('begun')\nsteps = 1\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
        "steps += 1\nprint('done')\nsteps * 10"
    ).value
    assert "running" in repr(job)
    wait_until(lambda: job.output == "begun\n", "the job's first line")
    assert pi.ok("%%flame\nsteps").value == 1
    assert not job.wait(0.01)
    with pytest.raises(TimeoutError):
        job.get(0.01)
    assert "running" in pi.ok("%flame jobs").out
    go_on.touch()
    assert job.wait(20)
    assert (job.result, job.output, job.state, job.error) == (20, "begun\ndone\n", "done", None)
    assert pi["steps"] == 2
    assert pi.ok(f"%flame jobs {job.number}").value is job
    assert "done" in pi.ok("%flame jobs").out
    assert job.displays == [{"text/plain": "20"}]
    assert not job.cancel()


def test_a_job_is_cancelled(pi: Shell) -> None:
    pi.ok("%%flame -a --out job\nimport time\nprint('begun')\nwhile True: time.sleep(0.01)")
    job = pi["job"]
    wait_until(lambda: job.output == "begun\n", "the job's first line")
    pi.ok(f"%flame jobs {job.number} --cancel")
    assert job.wait(20)
    assert job.state == "stopped"
    assert pi.ok("%flame eval 1 + 1").value == 2


def test_a_job_that_fails(pi: Shell) -> None:
    job = pi.ok("%%flame --bg\n1/0").value
    assert job.wait(20)
    assert job.state == "failed"
    assert isinstance(job.error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        job.result  # noqa: B018
    ran = pi.run(f"get_ipython().run_line_magic('flame', 'jobs {job.number}').result")
    assert "1/0" in ran.text
    unfinished = pi.ok("%%capture seen\n%%flame --bg --out unfinished -o nowhere\npass")
    assert unfinished.text == ""
    assert pi["unfinished"].wait(20)
    assert pi["unfinished"].state == "failed"
    assert "no variable 'nowhere'" in str(pi["unfinished"].error)
    slow = pi.ok("%%flame --bg --timeout 0.2\nimport time\nwhile True: time.sleep(0.01)").value
    assert slow.wait(20)
    assert slow.state == "stopped"


def test_not_to_wait_is_a_setting(pi: Shell) -> None:
    pi.ok("%config FlameMagics.block = False")
    job = pi.ok("%%flame\n3").value
    assert job.result == 3
    assert pi.ok("%%flame --block\n4").value == 4


# -- what else there is ----------------------------------------------------------------------------------------------


def test_modules_and_builtins_stand_here(pi: Shell, server: FlameServer) -> None:
    pi.ok("%flame module os.path as rpath")
    pi.ok("%flame module collections")
    pi.ok("%flame builtin open as ropen")
    assert pi.ok("rpath.basename('/a/b')").value == "b"
    assert pi.ok("collections.Counter('aab')['a']").value == 2
    (server.cwd / "note").write_text("written there")
    assert pi.ok("ropen('note').read()").value == "written there"
    is_one = pi.run("%flame module not_a_module_there as m")
    assert "No module named 'not_a_module_there'" in str(is_one.error)
    assert "flame_kernel" not in is_one.text
    assert "m" not in pi.names


def test_a_script_and_a_function_run_there(pi: Shell, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nprint(__name__, sys.argv[1:])\ndef fail():\n    return 1 / 0\nif len(sys.argv) > 3: fail()\n"
    )
    assert pi.ok(f"%flame run {script} a 'b c'").out == "__main__ ['a', 'b c']\n"
    failed = pi.run(f"%flame run {script} a b c")
    assert isinstance(failed.error, ZeroDivisionError)
    assert "return 1 / 0" in failed.text
    assert "_flame_script" not in failed.text
    pi.ok("def twice(x, plus=0):\n    return 2 * x + plus")
    pi.ok("three = 3")
    assert pi.ok("%flame run twice(three, plus=1)").value == 7


def test_files_and_modules_travel(pi: Shell, server: FlameServer, tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("text")
    pi.ok(f"%flame put '{tmp_path}/a b.txt' there.txt")
    assert (server.cwd / "there.txt").read_text() == "text"
    pi.ok(f"%flame get there.txt {tmp_path}/back.txt")
    assert (tmp_path / "back.txt").read_text() == "text"
    (tmp_path / "sent_by_magic.py").write_text("def answer():\n    return 42\n")
    assert "sent_by_magic: 1 module" in pi.ok(f"%flame sendmodule {tmp_path}/sent_by_magic.py").out
    assert pi.ok("%flame eval __import__('sent_by_magic').answer()").value == 42
    source = pi.ok("text = %flame getmodule textwrap\ntext").value
    assert "def dedent" in source
    pi.ok(f"%flame getmodule textwrap {tmp_path}/fetched.py")
    assert (tmp_path / "fetched.py").read_text() == source


def test_a_far_side_without_ipython(shell: Shell, flame_server: Callable[..., FlameServer]) -> None:
    shell.ok(f"%flame connect {flame_server(ipython=False).location}")
    assert "built-in shell" in shell.ok("%flame status").out
    assert "from a shell" in shell.ok("%%flame\n!echo from a shell\n6 * 7").out
    assert shell["_"] == 42
    assert "number of items" in shell.ok("%%flame\nlen?").text
    assert shell.complete("%%flame\nimport os\nos.path.jo")[0].endswith("os.path.join")
    ran = shell.run("%%flame\ndef fail():\n    return 1 / 0\nfail()")
    assert isinstance(ran.error, ZeroDivisionError)
    assert "return 1 / 0" in ran.text
    shell.ok("%flame disconnect")


def test_tab(pi: Shell, server: FlameServer, tmp_path: Path) -> None:
    assert "%flame connect" in pi.complete("%flame con")
    assert "%flame connect --key-file" in pi.complete("%flame connect --k")
    assert "%flame connect --place child" in pi.complete("%flame connect --place c")
    assert pi.complete("%flame use p") == ["%flame use pi"]
    assert pi.complete("%flame eval -t p") == ["%flame eval -t pi"]
    assert "%%flame --no-raise-error" in pi.complete("%%flame --no")
    pi.ok("%%flame\nimport os\nfar_colour_inner = far_colour_outer = 'blue'")
    assert pi.complete("%flame eval far_col") == ["%flame eval far_colour_inner", "%flame eval far_colour_outer"]
    assert pi.complete("x = %flame eval os.path.jo") == ["x = %flame eval os.path.join"]
    assert pi.complete("%flame pull far_colour_i") == ["%flame pull far_colour_inner"]
    assert pi.complete("%%flame -o far_colour_i") == ["%%flame -o far_colour_inner"]
    assert pi.complete("%%flame -t pi\nimport os\nif True:\n    far_colour_o")[0].endswith("far_colour_outer")
    pi["near_colour"] = 1
    assert pi.complete("%flame push near_c") == ["%flame push near_colour"]
    assert pi.complete("%%flame -i near_c") == ["%%flame -i near_colour"]
    assert "%flame module textwrap" in pi.complete("%flame module textwr")
    assert "%flame builtin zip" in pi.complete("%flame builtin zi")
    (server.cwd / "far file").write_text("")
    (server.cwd / "far folder").mkdir(exist_ok=True)
    assert pi.complete("%flame get far")[:2] == ['%flame get "far file"', '%flame get "far folder/"']
    (tmp_path / "near file").write_text("")
    assert pi.complete(f"%flame put {tmp_path}/near") == [f'%flame put "{tmp_path}/near file"']
    assert pi.complete(f"%flame run {tmp_path}/near") == [f'%flame run "{tmp_path}/near file"']
    assert pi.complete("%flame help ev") == ["%flame help eval"]


def test_tab_without_a_connection(shell: Shell) -> None:
    assert shell.complete("%flame eval far_col") == []
    assert "%flame eval" in shell.complete("%flame ev")


def test_the_magics_teach(shell: Shell) -> None:
    page = shell.ok("%flame help").out
    for command in commands(MAGICS):
        assert f"%flame {command.name}" in page
        how = shell.ok(f"%flame help {command.name}").out
        assert f"%flame {command.name}" in how
        assert len(how.splitlines()) > 2
        assert shell.ok(f"%flame {command.name}?").out == how
    assert "%flame sendmodule" in shell.ok("%flame?").text
    assert "--no-raise-error" in shell.ok("%%flame?").text
    assert "FlameMagics(Magics) options" in shell.ok("%config FlameMagics").out


def test_loaded_twice_and_unloaded(shell: Shell) -> None:
    shell.ok("%flame connect --as here")
    assert "already loaded" in shell.ok("%load_ext flame").text
    shell.ok("%load_ext flame_kernel")
    assert shell.ok("%flame eval 3").value == 3
    shell.ok("%unload_ext flame")
    assert "not found" in shell.run("%flame status").text
    shell.ok("%load_ext flame")
