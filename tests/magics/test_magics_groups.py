"""``%%flame -t web``: cells on several far sides, folded; px's options; figures side by side; Stop; hosts that fail."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from farside import FlameServer, wait_until
from notebook_shell import Shell, ipython, is_one_sentence

HOSTS = ("web1", "web2", "web3")


@pytest.fixture
def shell(servers: dict[str, FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """An IPython whose targets.toml has the three servers, one that is dead, and groups of them."""
    path = tmp_path / "targets.toml"
    path.touch(mode=0o600)
    text = "".join(
        f'[targets.{name}]\nlocation = "{one.location}"\nplace = "process"\nshell = "mini"\n'
        for name, one in servers.items()
    )
    text += '[targets.dead]\nlocation = "127.0.0.1:9"\n[groups.web]\nmembers = ["web*"]\n'
    path.write_text('default_group = "web"\n' + text + '[groups.some]\nmembers = ["web1", "dead"]\n')
    monkeypatch.setenv("FLAME_CONFIG", str(path))
    with ipython(tmp_path) as one:
        yield one


def test_equal_output_is_told_once(shell: Shell) -> None:
    ran = shell.ok("%%flame -t web\nprint('hello')\n6 * 7")
    assert ran.out.count("hello") == 1
    assert ran.out.count("42") == 1
    assert "all 3 hosts: web[1-3]" in ran.out


def test_what_differs_is_told_as_a_difference(shell: Shell) -> None:
    shell.ok("%%flame -t web\nlines = [f'line {n}' for n in range(9)]")
    shell.ok("%%flame -t 2\nlines[4] = 'ODD'")
    ran = shell.ok("%%flame -t web\nprint('\\n'.join(lines))")
    assert "2 of 3 hosts: web1, web2" in ran.out
    assert "-line 4\n+ODD" in ran.out
    assert ran.out.count("line 7") == 1
    assert shell.ok("%%flame -t web --no-diff\nprint('\\n'.join(lines))").out.count("line 7") == 2
    masked = shell.ok("%%flame -t web --mask\nimport os; print('pid', os.getpid())")
    assert "all 3 hosts: web[1-3] (numbers differ)" in masked.out


def test_two_hosts_are_told_as_they_speak(shell: Shell) -> None:
    ran = shell.ok("%%flame -t web1,web2\nprint('a\\nb')")
    assert sorted(ran.out.split("\n")) == ["", "[web1] a", "[web1] b", "[web2] a", "[web2] b"]
    assert "all 2 hosts" in shell.ok("%%flame -t web1,web2 --fold\nprint('a')").out
    streamed = shell.ok("%%flame -t web --stream\nprint('x', end='')")
    assert sorted(streamed.out.split()) == sorted(f"[{name}] x".split()[n] for name in HOSTS for n in (0, 1))


def test_a_single_host_is_not_named(shell: Shell) -> None:
    shell.ok("%%flame -t web\nn = 1")
    assert shell.ok("%flame px -t 1 print(n)").out == "1\n"
    ran = shell.run("%%flame -t 1\nn / 0")
    assert type(ran.error).__name__ == "ZeroDivisionError"
    assert "hosts failed" not in ran.text


def test_each_host_by_itself_as_px_does(shell: Shell) -> None:
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)"
    ran = shell.ok(f"%%flame -t web -e\n{code}")
    assert ran.out.split() == [word for name in HOSTS for word in (f"[stdout:{name}]", "out")]
    assert ran.err.split() == [word for name in HOSTS for word in (f"[stderr:{name}]", "err")]
    assert "[stdout:web3]" in shell.ok(f"%%flame -t web --group-outputs type\n{code}").out
    assert "[stdout:web3]" in shell.ok(f"%%flame -t web -r\n{code}").out


def test_values_there_and_back(shell: Shell) -> None:
    shell.ok("n = 5")
    shell.ok("%%flame -t web -i n -o m --out later\nm = n + 1")
    pulled, future = shell.names["m"], shell.names["later"]
    assert dict(pulled) == dict.fromkeys(HOSTS, 6)
    assert pulled[0] == 6
    assert future.done()
    assert future.results.outputs["web2"].state == "done"
    ran = shell.ok("job = None\nfuture = get_ipython().run_cell_magic('flame', '-t web -a', 'n')\nfuture.wait(30)")
    assert ran.value is True
    assert "5" in shell.ok("%flame result").out


def test_those_that_fail(shell: Shell) -> None:
    shell.ok("%%flame -t web\nhost_ok = True")
    shell.ok("%%flame -t 0:2\nodd = 1")
    ran = shell.run("%%flame -t web\nprint('before', odd)")
    assert type(ran.error).__name__ == "GroupError"
    assert "2 of 3 hosts: web1, web2" in ran.out
    assert "failed: web3" in ran.text
    assert "NameError: name 'odd' is not defined" in ran.text
    assert "1 of 3 hosts failed" in ran.text
    assert list(ran.error.errors) == ["web3"]  # type: ignore[union-attr]
    shown = shell.run("%%flame -t web --no-raise-error\nprint('before', odd)")
    assert shown.error is None
    assert "NameError" in shown.err


def test_a_host_that_is_not_there_is_a_row(shell: Shell) -> None:
    ran = shell.run("%%flame -t some --fold\nprint('x')")
    assert "x" in ran.out
    assert "not reachable: dead" in ran.text
    assert "connection refused" in ran.text


def test_figures_side_by_side(shell: Shell) -> None:
    code = (
        "import struct, zlib, os\n"
        "def chunk(kind, data):\n"
        "    body = kind + data\n"
        "    return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))\n"
        "row = bytes([0, os.getpid() % 256, 0, 0])\n"
        "png = (b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 1, 1, 8, 2, 0, 0, 0))\n"
        "       + chunk(b'IDAT', zlib.compress(row)) + chunk(b'IEND', b''))\n"
        "class Figure:\n"
        "    def _repr_png_(self):\n"
        "        return png\n"
        "Figure()"
    )
    shell.ok("from IPython.utils.capture import capture_output")
    ran = shell.ok(
        "with capture_output() as kept:\n"
        f"    get_ipython().run_cell_magic('flame', '-t web', {code!r})\n"
        "[one.data for one in kept.outputs]"
    )
    (data,) = ran.value
    assert data["text/html"].count("<img src='data:image/png;base64,") == 3
    assert "<figcaption>web1</figcaption>" in data["text/html"]


def test_stop_reaches_all(shell: Shell) -> None:
    shell.ok("%%flame -t web\n1")
    cells = shell.ip.magics_manager.registry["FlameMagics"].cells
    members = cells.groups.of("web").members

    def begun() -> bool:
        return all("begun" in one.text for one in cells.groups.last.results.outputs.values())

    def press() -> None:
        wait_until(begun, "all have begun")
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    ran = shell.run("%%flame -t web\nimport time\nprint('begun')\nwhile True:\n    time.sleep(0.01)")
    presser.join()
    assert isinstance(ran.error, KeyboardInterrupt)
    assert "begun" in ran.out
    wait_until(lambda: all(member.state == "idle" for member in members), "all have stopped")


def test_a_cell_that_takes_too_long(shell: Shell) -> None:
    ran = shell.run("%%flame -t web --timeout 0.5\nimport time\nwhile True:\n    time.sleep(0.01)")
    assert type(ran.error).__name__ == "GroupError"
    assert "KeyboardInterrupt" in ran.text
    assert ran.err == "[did not end within 0.5 s, so interrupted: web[1-3]]\n"


def test_errors_that_differ_in_numbers_alone_are_told_once(shell: Shell) -> None:
    code = "import os\nraise ValueError(f'pid {os.getpid()}')"
    assert shell.run(f"%%flame -t web\n{code}").out.count("ValueError: pid") == 3
    masked = shell.run(f"%%flame -t web --mask\n{code}").out
    assert "failed: 3 of 3 hosts: web[1-3] (numbers differ)" in masked
    assert masked.count("ValueError: pid") == 1


def test_px_in_its_own_words(shell: Shell) -> None:
    assert "all 3 hosts" in shell.ok("%flame px -t web print('x')").out
    shell.ok("%flame px --install")
    assert "all 3 hosts" in shell.ok("%px print('x')").out
    assert "[web2] x" in shell.ok("%%px -t 1,2\nprint('x')").out
    assert "2 hosts: web2, web3" in shell.ok("%%px -t 1: --fold\nprint('y')").out
    assert "2 hosts: web2, web3" in shell.ok("%pxresult").out
    is_one_sentence(shell.run("%%px -t 7\n1"), "7 selects no host; the members are numbered 0 to 2")


# A line of %%px as ipyparallel's manual has it, code, and what is shown; all on one group of three.
AS_IN_ITS_MANUAL = [
    ("--targets 1 --verbose", "print('x')", "runs on web2\nx\n"),
    ("--targets -1 --verbose", "print('x')", "runs on web3\nx\n"),
    ("--targets [0,2] --fold", "print('x')", "2 hosts: web1, web3"),
    ("-t 0,2 --fold", "print('x')", "2 hosts: web1, web3"),
    ("-t ::2 --fold", "print('x')", "2 hosts: web1, web3"),
    ("-t :", "print('x')", "all 3 hosts"),
    ("--block", "print('x')", "all 3 hosts"),
    ("--stream -t :2", "print('x')", "[web2] x"),
    ("--no-stream -t :2", "print('x')", "all 2 hosts"),
    ("--verbose", "print('x')", "runs on 3 hosts: web[1-3]"),
    ("--progress-after 0", "import time; time.sleep(0.01)", ""),
    ("--progress-after=-1", "print('x')", "all 3 hosts"),
    ("--signal-on-interrupt SIGTERM", "print('x')", "all 3 hosts"),
    ("--signal-on-interrupt 9", "print('x')", "all 3 hosts"),
    ("--signal-on-interrupt 0", "print('x')", "all 3 hosts"),
    ("--group-outputs type", "print('x')", "[stdout:web2] x"),
    ("--group-outputs=engine", "print('x')", "[stdout:web2] x"),
    ("-e", "print('x')", "[stdout:web2] x"),
    ("-r", "print('x')", "[stdout:web2] x"),
    ("--local", "print('x')", "x\n── all 3 hosts"),
    ("--noblock -o later", "print('x')", ""),
    ("-a --out later", "print('x')", ""),
]


@pytest.fixture
def px_shell(shell: Shell) -> Shell:
    shell.ok("%flame px --install")
    return shell


def test_every_option_of_px_by_its_name(px_shell: Shell) -> None:
    for line, code, shown in AS_IN_ITS_MANUAL:
        ran = px_shell.ok(f"%%px {line}\n{code}")
        assert shown in ran.out, f"{line}: {ran.text}"
        if "later" in line:
            assert px_shell["later"].result(20).ok.keys() == set(HOSTS)


def test_px_is_configured_recalled_and_told_as_its_manual_says(px_shell: Shell) -> None:
    px_shell["x"] = "here"
    px_shell.ok("%px x = 'there'")
    assert "there" in px_shell.ok("%px print(f'{x}')").out  # the braces are the far side's
    px_shell.ok("%pxconfig --noblock --targets 1: --verbose")
    assert px_shell.ok("%%px -o later\nx").out.startswith("runs on 2 hosts: web2, web3")
    assert "there" in px_shell.ok("%pxresult --fold").out
    assert "[stdout:web2] 'there'" in px_shell.ok("%pxresult -r").out
    px_shell.ok("%pxresult -o again")
    assert px_shell["again"] is px_shell["later"]
    px_shell.ok("%pxconfig --block --no-verbose")
    assert px_shell.ok("%autopx").out.startswith("every cell runs as with %%px")
    assert "all 2 hosts" not in px_shell.ok("print(x)").out
    assert "cells run here again" in px_shell.ok("%autopx").out
    assert px_shell.ok("print(x)").out == "here\n"
    px_shell.ok("%pxconfig -t :")
    for line, said in (("%%px -b -a\n1", "exclude"), ("%pxconfig -e", "no option -e"), ("%%px -x\n1", "%%px? lists")):
        is_one_sentence(px_shell.run(line), said)


def test_words_that_name_nobody_are_not_the_group_of_before(shell: Shell) -> None:
    shell.ok("%%flame -t web1,web3 --fold\n1")
    is_one_sentence(shell.run("%%flame -t nobody,web1\n1"), "there is no target or group 'nobody'")
    assert shell.ok("%%flame -t 1 --verbose\nprint(1)").out == "runs on web3\n1\n"


def test_here_too_and_not_waited_for(shell: Shell, servers: dict[str, FlameServer]) -> None:
    assert shell.ok("%%flame -t web --local -a --out job\nprint('x')").out == "x\n"
    assert shell["job"].result(20).ok.keys() == set(HOSTS)
    shell.ok(f"%flame connect {servers['web1'].location} --as own --place process --shell mini")
    assert shell.ok("%%flame -t own --local --bg --out job\nprint('x')\nn = 1").out.startswith("x\n")
    shell["job"].wait()
    shell.ok("%autoflame own --local")
    assert shell.ok("n = 2").error is None
    shell.ok("%autoflame")
    assert shell["n"] == 2
    assert shell.ok("%flame eval n").value == 2


def test_every_cell_there_until_it_is_said_again(shell: Shell) -> None:
    assert "every cell runs on web" in shell.ok("%autoflame web").out
    try:
        assert "all 3 hosts" in shell.ok("print('far')").out
        assert "%%flame" in shell.ok("%flame help").out
    finally:
        assert "cells run here again" in shell.ok("%autoflame").out
    assert shell.ok("print('near')").out == "near\n"


def test_a_name_that_nobody_has_does_not_take_every_cell(shell: Shell) -> None:
    is_one_sentence(shell.run("%autoflame nobody"), "there is no target or group 'nobody'")
    is_one_sentence(shell.run("%autoflame nobody,web1"), "there is no target or group 'nobody'")
    assert shell.ok("print('near')").out == "near\n"


def test_what_is_said_alike_is_told_once(shell: Shell) -> None:
    """A warning names its cell's file, which lies in another folder on each host."""
    ran = shell.ok("%%flame -t web\nimport warnings; warnings.warn('old')")
    assert ran.out.count("UserWarning: old") == 1
    assert "all 3 hosts" in ran.out


def test_a_value_has_a_line_of_its_own(shell: Shell) -> None:
    ran = shell.ok("%%flame -t web\nimport sys; end = sys.stdout.write('no end'); 42")
    assert "no end\n42\n" in ran.out


def test_help_of_a_name_is_told_once(shell: Shell) -> None:
    ran = shell.ok("%%flame -t web\ndef helped(): 'what it does'\nhelped?")
    assert ran.out.count("what it does") == 1
    assert "all 3 hosts" in ran.out


def test_the_group_that_is_the_default_is_disconnected_without_its_name(shell: Shell) -> None:
    shell.ok("%flame connect web")
    assert "web: disconnected" in shell.ok("%flame disconnect").out
    shell.ok("%flame use web")
    assert "web: disconnected" in shell.ok("%flame disconnect").out
    is_one_sentence(shell.run("%%flame\n1"), "not connected")


def test_groups_in_status_and_their_end(shell: Shell) -> None:
    shell.ok("%%flame -t web1,web3\n1")
    assert "web1,web3: idle: web1, web3" in shell.ok("%flame status").out
    assert "web1,web3: disconnected" in shell.ok("%flame disconnect web1,web3").out
    assert "web1,web3" not in shell.ok("%flame status").out


def test_a_host_has_one_session_whatever_words_name_it(shell: Shell) -> None:
    shell.ok("%%flame -t web\nn = 1")
    shell.ok("%%flame -t web2\nn = 2")
    assert "2" in shell.ok("%%flame -t web1,web2 --fold\nprint(n)").out
    shell.ok("%flame disconnect web1,web2")
    assert "2 of 3 hosts: web1, web3" in shell.ok("%%flame -t web\nprint(n)").out
    shell.ok("%flame disconnect web")
    assert "NameError" in shell.run("%%flame -t web\nprint(n)").text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-t web,nobody", "there is no target or group 'nobody'"),
        ("-t db*", "matches no target"),
        ("-t web --signal-on-interrupt SIGFOO", "SIGFOO is not a signal"),
        ("-t web -e -r", "-e"),
        ("-t web --group-outputs host", "type, engine"),
        ("-t web -i nothing_here", "there is no variable 'nothing_here' here"),
    ],
)
def test_mistakes(shell: Shell, line: str, said: str) -> None:
    ran = shell.run(f"%%flame {line}\n1")
    assert ran.error is not None
    assert said in ran.text
    assert "Traceback" not in ran.text


def test_a_connection_of_the_notebook_is_a_member(shell: Shell, servers: dict[str, FlameServer]) -> None:
    shell.ok(f"%flame connect {servers['web1'].location} --as own --place process")
    shell.ok("%%flame -t own\nmine = 3")
    ran = shell.ok("%%flame -t own,web2 --fold\nprint(globals().get('mine'))")
    assert "3" in ran.out
    assert "None" in ran.out
    shell.ok("%flame disconnect own,web2")
    assert shell.ok("%%flame -t own\nprint(mine)").out == "3\n"
    shell.ok("%flame disconnect own")


def test_a_group_is_the_current_target(shell: Shell) -> None:
    assert "web: 3 hosts" in shell.ok("%flame connect web").out
    assert "all 3 hosts" in shell.ok("%%flame\nprint('x')").out
    assert "* web: idle: web[1-3]" in shell.ok("%flame status").out
    shell.ok("%flame disconnect web")
    is_one_sentence(shell.run("%%flame\nprint('x')"), "not connected")


def test_here_and_there_where_every_cell_goes_there(shell: Shell) -> None:
    shell.ok("%autoflame -t web --local")
    try:
        ran = shell.ok("print('x')")
        assert ran.out.count("x\n") == 2
    finally:
        shell.ok("%autoflame")


def test_a_value_is_pulled_behind_a_cell_that_is_not_waited_for(shell: Shell) -> None:
    shell.ok("%%flame -t web -a -o later --out job\nlater = 5")
    wait_until(lambda: "later" in shell.names, "it is there")
    assert dict(shell.names["later"]) == dict.fromkeys(HOSTS, 5)


def test_a_connection_that_is_made_anew_takes_part(shell: Shell, servers: dict[str, FlameServer]) -> None:
    for _ in range(2):
        shell.ok("%flame connect web1 --place process")
        assert "all 2 hosts" in shell.ok("%%flame -t web1,web2 --fold\nprint('x')").out
        shell.ok("%flame disconnect web1")


def test_what_failed_is_told_when_the_rest_is_stopped(shell: Shell) -> None:
    shell.ok("%%flame -t web\nimport time\nfails = False")
    shell.ok("%%flame -t web1\nfails = True")
    groups = shell.ip.magics_manager.registry["FlameMagics"].cells.groups

    def press() -> None:
        wait_until(lambda: len(groups.last) == 3 and groups.last.progress == 1, "one has failed")
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    ran = shell.run("%%flame -t web\nif fails:\n    raise ValueError('no')\nwhile True:\n    time.sleep(0.01)")
    presser.join()
    assert isinstance(ran.error, KeyboardInterrupt)
    assert "ValueError: no" in ran.err


def test_options_of_a_connection_are_for_one_host(shell: Shell, tmp_path: Path) -> None:
    for words, options, said in (
        ("web", "--place process", "web means several hosts, and --place is for one; write that into targets.toml"),
        ("web1*2", f"--config {tmp_path / 'targets.toml'}", "--config is for one; for other targets set FLAME_CONFIG"),
    ):
        is_one_sentence(shell.run(f"%flame connect {words} {options}"), said)
