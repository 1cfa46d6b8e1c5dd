"""The kernel on a group: every cell on all hosts, told once; ``%%flame -t``; Stop; the way back after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import farside
import pytest
from farside import FlameServer, wait_until
from kernels import Kernel, Run, remote_flame
from mini import plain
from widgets import Front, of_model

HOSTS = ("web1", "web2", "web3")


@pytest.fixture(scope="module")
def saved(servers: dict[str, FlameServer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A targets.toml of the three servers and one that is dead, and groups of them."""
    path = tmp_path_factory.mktemp("config") / "targets.toml"
    path.touch(mode=0o600)
    text = "".join(
        f'[targets.{name}]\nlocation = "{one.location}"\nplace = "child"\nshell = "mini"\n'
        for name, one in servers.items()
    )
    groups = '[groups.web]\nmembers = ["web*"]\n[groups.some]\nmembers = ["web1", "web2", "dead"]\n'
    path.write_text(f'{text}[targets.dead]\nlocation = "127.0.0.1:9"\n{groups}')
    return path


@pytest.fixture
def kernel(saved: Path) -> Iterator[Kernel]:
    """A kernel that is connected to the group web."""
    with remote_flame(env={"FLAME_CONFIG": str(saved)}) as one:
        said = ok(one.execute("%flame connect web")).stdout
        assert said == "cells run on 3 hosts of web: idle: web[1-3]\n"
        yield one


@pytest.fixture
def unconnected(saved: Path) -> Iterator[Kernel]:
    with remote_flame(env={"FLAME_CONFIG": str(saved)}) as one:
        yield one


def ok(run: Run) -> Run:
    assert run.error is None, run
    assert run.reply is not None
    assert run.reply["status"] == "ok", run
    return run


def sentence(run: Run) -> str:
    """The words of an error of ours."""
    assert run.error is not None, run
    assert "Traceback" not in run.traceback
    return plain(run.traceback)


def test_every_cell_runs_on_all_and_is_told_once(kernel: Kernel) -> None:
    run = ok(kernel.execute("print('hello')\n6 * 7"))
    assert run.stdout.count("hello") == 1
    assert run.stdout.count("42") == 1
    assert "all 3 hosts: web[1-3]" in run.stdout
    assert run.reply is not None
    assert run.reply["execution_count"] == 2
    ok(kernel.execute("%%flame -t 1\nodd = True"))
    run = kernel.execute("print('before', odd)")
    assert run.reply is not None
    assert (run.reply["status"], run.reply["ename"], run.reply["execution_count"]) == ("error", "GroupError", 4)
    assert "before True" in run.stdout
    assert "failed: 2 of 3 hosts: web1, web3" in run.traceback
    assert run.traceback.count("NameError: name 'odd' is not defined") == 1
    assert "2 of 3 hosts failed" in run.traceback
    rows = ok(kernel.execute("%flame status")).stdout.splitlines()[2:]
    assert [row.split()[:2] for row in rows] == [[name, "idle"] for name in HOSTS]


def test_that_rich_output_is_off_is_said_once(kernel: Kernel) -> None:
    ok(kernel.execute("class Bold:\n    __repr__ = lambda self: 'plain'\n    _repr_html_ = lambda self: '<b>b</b>'"))
    said = ok(kernel.execute("Bold()")).stdout
    assert "all 3 hosts" in said
    assert said.count("HTML and widgets are off: this server has no key") == 1
    again = ok(kernel.execute("Bold()")).stdout
    assert again.count("plain") == 1
    assert "HTML" not in again


def test_widgets_of_hosts_with_keys_show_as_text(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    path, key = tmp_path / "targets.toml", farside.random_key()
    path.touch(mode=0o600)
    hosts = {name: flame_server(key=key).location for name in ("web1", "web2")}
    path.write_text(
        "".join(f'[targets.{name}]\nlocation = "{where}"\nkey = "env:HOSTS_KEY"\n' for name, where in hosts.items())
    )
    with remote_flame(env={"FLAME_CONFIG": str(path), "HOSTS_KEY": key}) as k:
        run = ok(k.execute("%%flame -t web1,web2 --fold\nimport ipywidgets as w\ns = w.IntSlider(value=7)\ns"))
        assert "all 2 hosts: web1, web2" in run.stdout
        assert run.stdout.count("IntSlider(value=7)") == 1
        assert (run.stdout + run.stderr).count("[widgets of a group's hosts show as text]") == 1
        assert "HTML and widgets are off" not in run.stdout
        # On one of them, in a cell of its own, it is live.
        ok(k.execute("%flame connect web1"))
        ok(k.execute("import ipywidgets as w\ns = w.IntSlider()\ns.observe(lambda c: print('now', c.new), 'value')"))
        slider = of_model(
            k.execute("t = w.IntSlider()\nt.observe(lambda c: print('t', c.new), 'value')\nt"), "IntSliderModel"
        )
        assert Front(k).move(slider, value=9).stdout == "t 9\n"


def test_a_silent_cell_shows_nothing_and_counts_nothing(kernel: Kernel) -> None:
    run = kernel.execute("quiet = 1\nprint('x')", silent=True)
    assert run.output == []
    run = ok(kernel.execute("quiet"))
    assert "1" in run.stdout
    assert run.reply is not None
    assert run.reply["execution_count"] == 2


def test_some_of_the_group_and_others_beside_it(kernel: Kernel) -> None:
    ok(kernel.execute("n = 1"))
    ok(kernel.execute("%%flame -t web2\nn = 2"))
    assert "2 of 3 hosts: web1, web3" in ok(kernel.execute("n")).stdout
    assert ok(kernel.execute("%%flame -t web2\nprint(n)")).stdout == "2\n"
    ok(kernel.execute("%%local\nvalue = [1]"))
    ok(kernel.execute("%%flame -t web1,web2 -i value -o other\nother = value + [n]"))
    here = ok(kernel.execute("%%local\nother"))
    assert here.result == "{'web1': [1, 1], 'web2': [1, 2]}"
    ok(kernel.execute("%flame push value"))
    ok(kernel.execute("%flame pull value"))
    assert ok(kernel.execute("%%local\nvalue")).result == "{'web1': [1], 'web2': [1], 'web3': [1]}"
    run = kernel.execute("%%flame -t web2\n1 / 0")
    assert run.reply is not None
    assert run.reply["ename"] == "ZeroDivisionError"


def test_a_host_that_is_not_there_is_a_row(unconnected: Kernel) -> None:
    run = ok(unconnected.execute("%flame connect some"))
    assert "not connected: dead" in run.stdout
    assert "connection refused" in run.stderr
    run = ok(unconnected.execute("print('x')"))
    assert "2 of 3 hosts: web1, web2" in run.stdout
    assert "not reachable: dead" in run.stderr


def test_a_group_beside_one_host(unconnected: Kernel) -> None:
    pid = ok(unconnected.execute("import os; os.getpid()")).result
    assert "all 3 hosts" in ok(unconnected.execute("%%flame -t web\nprint('x')")).stdout
    assert "all 3 hosts" in ok(unconnected.execute("%flame px -t web print('x')")).stdout
    assert "all 3 hosts" in ok(unconnected.execute("%flame result")).stdout
    assert ok(unconnected.execute("os.getpid()")).result == pid
    assert "all 3 hosts" in ok(unconnected.execute("%flame px print('the group of before')")).stdout


def test_px_on_one_host_is_a_cell_there(unconnected: Kernel) -> None:
    """As in the magics, where no group is named and none was before: it runs where the kernel's cells run."""
    ok(unconnected.execute("n = 3"))
    assert ok(unconnected.execute("%flame px print(n); m = 4")).stdout == "3\n"
    assert ok(unconnected.execute("m")).result == "4"
    assert ok(unconnected.execute("%flame px -t 0 print(m)")).stdout == "4\n"
    run = unconnected.execute("%flame px 1 / 0")
    assert run.reply is not None
    assert run.reply["ename"] == "ZeroDivisionError"


def test_files_modules_scripts_and_stacks(kernel: Kernel, servers: dict[str, FlameServer], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert "all 3 hosts" in ok(kernel.execute(f"%flame put {tmp_path}/a.txt sent.txt")).stdout
    assert (Path(servers["web2"].cwd) / "sent.txt").read_text() == "a"
    ok(kernel.execute(f"%flame get sent.txt {tmp_path}/back"))
    assert sorted(one.parent.name for one in (tmp_path / "back").rglob("sent.txt")) == list(HOSTS)
    ok(kernel.execute(f"%flame sync {tmp_path}/back/ :synced"))
    assert (Path(servers["web3"].cwd) / "synced" / "web1" / "sent.txt").exists()
    (tmp_path / "helper.py").write_text("def word():\n    return 'helped'\n")
    ok(kernel.execute(f"%flame sendmodule {tmp_path}/helper.py"))
    assert ok(kernel.execute("import helper; print(helper.word())")).stdout.count("helped") == 1
    (tmp_path / "job.py").write_text("import sys\nprint(sys.argv[1:])\n")
    assert ok(kernel.execute(f"%flame run {tmp_path}/job.py --fast")).stdout.count("['--fast']") == 1
    assert "no cell runs" in ok(kernel.execute("%flame where")).stdout
    assert "web3" in ok(kernel.execute("%flame top")).stdout


def test_stop_reaches_all_of_them(kernel: Kernel) -> None:
    run = kernel.submit("import time\nfor n in range(10**6):\n    time.sleep(0.01)")
    wait_until(lambda: "busy: web[1-3]" in kernel.execute("%flame status").stdout, "all are busy")
    kernel.interrupt()
    kernel.wait(run)
    assert run.reply is not None
    assert (run.reply["status"], run.reply["ename"]) == ("error", "KeyboardInterrupt")
    assert "all 3 hosts" in ok(kernel.execute("print('still there')")).stdout


def test_a_second_stop_reaches_what_the_first_has_not_stopped(kernel: Kernel) -> None:
    run = kernel.submit("import time\ntime.sleep(600)")
    wait_until(lambda: "busy: web[1-3]" in kernel.execute("%flame status").stdout, "all are busy")
    wait_until(lambda: kernel.execute("%flame where").stdout.count("time.sleep") == 1, "all sleep")
    kernel.interrupt()
    kernel.wait(run)
    if "not stopped yet" in run.stderr:
        kernel.interrupt()
    wait_until(lambda: "idle: web[1-3]" in kernel.execute("%flame status").stdout, "all have stopped")


def test_stop_sends_the_signal_that_is_wished(kernel: Kernel) -> None:
    code = (
        "import signal, time\ngot = []\nsignal.signal(signal.SIGUSR1, lambda *args: got.append(1))\n"
        "print('ready', flush=True)\nwhile not got:\n    time.sleep(0.01)\nprint('got it')"
    )
    run = kernel.submit(f"%%flame -t web --signal-on-interrupt SIGUSR1 --stream\n{code}")
    wait_until(lambda: kernel.take_all() or run.stdout.count("ready") == 3, "all are ready")
    kernel.interrupt()
    kernel.wait(run)
    assert run.stdout.count("got it") == 3
    quiet = "%%flame -t web --signal-on-interrupt 0 --progress-after -1"
    run = kernel.submit(f"{quiet}\nwhile len(got) < 2: time.sleep(0.01)")
    wait_until(lambda: "busy: web[1-3]" in kernel.execute("%flame status").stdout, "all are busy")
    kernel.interrupt()
    kernel.wait(run)
    assert "no longer waiting; it keeps running there: %flame result" in run.traceback
    assert run.displays == []
    assert "not done yet: web[1-3]" in ok(kernel.execute("%flame result")).stderr
    kernel.interrupt()
    wait_until(lambda: "idle: web[1-3]" in kernel.execute("%flame status").stdout, "all have stopped")


def test_an_editor_is_answered_by_the_first_that_lives(kernel: Kernel) -> None:
    ok(kernel.execute("a_long_name = 1"))
    wait_until(lambda: "a_long_name" in kernel.complete("a_long")["matches"], "jedi has been loaded there")
    assert any("bit_length" in one for one in kernel.complete("%%flame -t web2\na_long_name.bit_l")["matches"])
    assert "--mask" in kernel.complete("%%flame -t web --m")["matches"]
    assert "web" in kernel.complete("%flame connect we")["matches"]
    assert "%%flame" in kernel.complete("%%fl")["matches"]
    assert "int" in kernel.inspect("a_long_name", 3)["data"]["text/plain"]
    assert "--mask" in kernel.inspect("%%flame -t web", 3)["data"]["text/plain"]
    assert kernel.usage()["pid"] > 0


def test_a_session_that_dies_is_told_once(kernel: Kernel) -> None:
    ok(kernel.execute("kept = 1"))
    run = kernel.execute("%%flame -t web1,web2 --fold\nimport os; os._exit(3)")
    assert run.reply is not None
    assert run.reply["ename"] == "GroupError"
    assert run.traceback.count("ended itself with exit status 3") == 1
    assert "2 of 2 hosts: web1, web2" in run.traceback
    run = kernel.execute("kept")
    assert "failed: 2 of 3 hosts: web1, web2" in run.traceback


def test_nobody_is_asked_for_input(kernel: Kernel) -> None:
    run = kernel.execute("input('name? ')", allow_stdin=True)
    assert run.prompts == []
    assert "nobody is asked for input()" in run.stdout
    assert "EOFError" in run.traceback


def test_to_one_host_and_back(kernel: Kernel) -> None:
    ok(kernel.execute("mine = 1"))
    assert "cells run at" in ok(kernel.execute("%flame connect web2")).stdout
    assert "NameError" in kernel.execute("mine").traceback
    assert ok(kernel.execute("print('x')")).stdout == "x\n"
    ok(kernel.execute("%flame connect web1,web3"))
    assert "2 of 2 hosts" in kernel.execute("mine").traceback  # sessions of before have ended
    ok(kernel.execute("other = 1"))
    assert "ended the sessions" in ok(kernel.execute("%flame disconnect")).stdout
    assert "NameError" in kernel.execute("other").traceback
    ok(kernel.execute("print('begun anew')"))
    said = ok(kernel.execute("%flame detach")).stdout
    assert "they keep running" in said
    names = said.removeprefix("left the sessions ").partition(" of ")[0].split(", ")
    for host, name in zip(("web1", "web3"), names, strict=True):
        assert "ended session" in ok(kernel.execute(f"%flame sessions -t {host} --kill {name}")).stdout


def test_the_kernels_own_host_takes_part_with_its_session(unconnected: Kernel, servers: dict[str, FlameServer]) -> None:
    kernel = unconnected
    ok(kernel.execute("%flame connect web1"))
    ok(kernel.execute("mine = 5"))
    run = ok(kernel.execute("%%flame -t web1,web2 --fold\nprint(globals().get('mine'))\nlater = 6"))
    assert sorted(run.stdout.split("\n")[1::2]) == ["5", "None"]
    assert ok(kernel.execute(f"%%flame -t {servers['web1'].location}\nprint(later)")).stdout == "6\n"
    assert ok(kernel.execute("print(later)")).stdout == "6\n"
    assert "mine" in kernel.execute("%%flame -t web1,web2 --fold\nprint(mine)").traceback  # at web2 only
    assert "EOFError" in kernel.execute("%%flame -t web1,web2\ninput()", allow_stdin=True).traceback
    endless = kernel.submit(
        "%%flame -t web1,web2 --stream\nprint('begun')\nimport time\nwhile True:\n    time.sleep(0.01)"
    )
    kernel.wait_for(lambda: endless.stdout.count("begun") == 2, "both have begun")
    kernel.interrupt()
    kernel.wait(endless)
    assert endless.reply is not None
    assert endless.reply["ename"] == "KeyboardInterrupt"
    assert ok(kernel.execute("print(mine)")).stdout == "5\n"
    assert ok(kernel.execute("%flame sessions -t web1")).stdout.count("child") == 1
    kernel.restart()
    assert "None" in ok(kernel.execute("%%flame -t web1,web2 --fold\nprint(globals().get('mine'))\nlater = 7")).stdout
    assert ok(kernel.execute("print(later)")).stdout.endswith("7\n")
    ok(kernel.execute("%flame connect web3"))
    run = ok(kernel.execute("%%flame -t web1,web3 --fold\nprint(globals().get('later'))"))
    assert "all 2 hosts: web1, web3" in run.stdout
    ok(kernel.execute("%flame connect web1,web3"))
    assert "all 2 hosts" in ok(kernel.execute("%%flame --fold\nprint(globals().get('later'))")).stdout


def test_a_restart_goes_back_to_the_group(kernel: Kernel) -> None:
    ok(kernel.execute("before = 1"))
    kernel.restart()
    run = kernel.execute("before")
    assert "back where cells ran before" in run.stdout
    assert "3 of 3 hosts failed" in run.traceback
    assert ok(kernel.execute("print('x')")).stdout.count("x\n") == 1


def test_a_kernel_that_begins_on_a_group(saved: Path) -> None:
    with remote_flame(env={"FLAME_CONFIG": str(saved), "FLAME_TARGET": "web1,web2"}) as kernel:
        assert "all 2 hosts: web1, web2" in ok(kernel.execute("%%flame --fold\nprint('x')")).stdout
        assert sorted(ok(kernel.execute("print('y')")).stdout.splitlines()) == ["[web1] y", "[web2] y"]


MISTAKES = [
    ("%%flame -t nobody\n1", "there is no target or group 'nobody'"),
    ("%%flame -t 7\n1", "7 selects no host; the members are numbered 0 to 2"),
    ("%%flame -t db*\n1", "matches no target"),
    ("%%flame -t web --bg\n1", "--bg is for the magics of %load_ext flame"),
    ("%%flame -t web\n", "the cell is empty"),
    ("%%flame -t web -i 3\n1", "3"),
    ("%%flame -t web -i nothing\n1", "no %%local cell has run"),
    ("%flame watch x", "is for one host, and cells run on the group web"),
    ("%flame where --every 1", "a live view is for one host"),
    ("%flame replay", "is for one host"),
    ("%flame connect dead*1", "the host of dead*1 cannot be used: dead/1: cannot reach"),
    ("%flame connect dead,127.0.0.1:10", "none of the 2 hosts of dead,127.0.0.1:10 can be used"),
    ("%flame px --install", "here it is %flame px"),
]


def test_mistakes_are_one_sentence_each(kernel: Kernel) -> None:
    for code, said in MISTAKES:
        words = sentence(kernel.execute(code))
        assert said in words, (code, words)
        assert "\n" not in words
