"""``%flame`` and ``%%flame`` with what is wrong: one line that says what, and nothing is done by halves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import farside
import pytest
from farside import FlameServer
from notebook_shell import Shell, ipython

from flame_kernel.commands.code_words import assignments, call_of


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """An IPython that is connected as ``pi``, for all cases: none of them changes anything."""
    server = FlameServer(farside.pythons()[-1])
    with ipython(tmp_path_factory.mktemp("ipython")) as shell:
        shell.ok(f"%flame connect {server.location} --as pi")
        shell.ok("import threading; lock = threading.Lock(); here = 1")
        shell.ok("%%flame\nimport threading\nthere, far_lock = 1, threading.Lock()")
        yield shell
    server.stop()


# What is typed, and words of the one line that answers.
CASES = {
    "no such subcommand": ("%flame conect pi", ("no %flame conect; did you mean %flame connect?",)),
    "a subcommand's name cut short": ("%flame co", ("no %flame co; ", "%flame")),
    "help on nothing there is": ("%flame help conect", ("no %flame conect", "did you mean")),
    "an unknown option": ("%flame connect localhost:9999 --speed 3", ("no option --speed", "%flame help connect")),
    "an option cut short": ("%flame connect localhost:9999 --sess a", ("no option --sess; did you mean --session?",)),
    "an option without its value": ("%flame connect localhost:9999 --as", ("--as needs a value: --as NAME",)),
    "a value out of the list": ("%flame connect localhost:9999 --place moon", ("moon", "child")),
    "a number that is none": ("%flame connect localhost:9999 --timeout soon", ("--timeout is a number, not 'soon'",)),
    "a timeout below zero": ("%flame connect localhost:9999 --timeout -1", ("seconds above 0, not -1",)),
    "two places": ("%flame connect a:1 b:2", ("does not take 'b:2': %flame connect [WHERE]",)),
    "a quote that is not closed": ("%flame connect 'localhost:9999", ("the quotation is not closed",)),
    "a place without a port": ("%flame connect localhost", ("localhost",)),
    "a port that is none": ("%flame connect localhost:99999", ("no usable port",)),
    "nobody at that port": ("%flame connect localhost:1", ("connection refused",)),
    "a socket that is not there": ("%flame connect ./u:/nowhere/at/all", ("/nowhere/at/all",)),
    "a target that is not in the file": ("%flame connect furnace", ("furnace", "host:port")),
    "a name that binds nothing": ("%flame connect localhost:9999 --as 2nd", ("'2nd' is not a name",)),
    "a name that is a keyword": ("%flame connect localhost:9999 --as class", ("'class' is not a name",)),
    "a key file that is not there": ("%flame connect localhost:9999 --key-file /nowhere", ("/nowhere",)),
    "a session's name that is none": ("%flame connect localhost:9999 --session 'a b'", ("a b",)),
    "use of what is not connected": ("%flame use mars", ("'mars'", "there are pi")),
    "use of nothing": ("%flame use", ("%flame use needs NAME: %flame use NAME",)),
    "status of what is not connected": ("%flame status mars", ("'mars'", "pi")),
    "an end of what is not connected": ("%flame disconnect mars", ("'mars'", "pi")),
    "a target that is not connected": ("%flame eval -t mars 1", ("'mars'", "pi")),
    "a cell's target that is not connected": (
        "%%flame -t mars\n1",
        ("there is no target or group 'mars' in ", "there are pi", "or give host:port"),
    ),
    "a cluster of no workers": ("%flame dask -t pi --workers 0", ("--workers must be 1 or more, not 0",)),
    "no expression": ("%flame eval", ("%flame eval needs EXPRESSION: %flame eval EXPRESSION",)),
    "no statement": ("%flame exec -t pi", ("%flame exec needs STATEMENTS",)),
    "a module without a name": ("%flame module", ("%flame module needs MODULE",)),
    "a module that is no name": ("%flame module os-path", ("'os-path' is not a module",)),
    "a module that is not there": ("%flame module nosuch", ("nosuch cannot be imported at ", ": No module named")),
    "as what": ("%flame module os as", ("as NAME",)),
    "as two things": ("%flame module os as a b", ("as NAME",)),
    "as no name": ("%flame module os as 1a", ("'1a' is not a name",)),
    "a builtin that is not there": ("%flame builtin nowhere", ("no built-in function nowhere at",)),
    "a builtin that is no name": ("%flame builtin 1+1", ("'1+1' is not a builtin",)),
    "a push of no variable": ("%flame push nowhere", ("no variable 'nowhere' here",)),
    "a push of one variable of two": ("%flame push here nowhere", ("no variable 'nowhere' here",)),
    "a push of no name": ("%flame push 1a=2", ("'1a=2' is not a variable name",)),
    "a push of no expression": ("%flame push a=1+", ("a= is not an expression",)),
    "a push of an expression that fails": ("%flame push a=1/0", ("1/0 has no value here", "ZeroDivisionError")),
    "a push of what cannot travel": ("%flame push here lock", ("lock", "trust")),
    "a push of nothing": ("%flame push", ("%flame push needs NAME[=EXPRESSION]",)),
    "a pull of no variable": ("%flame pull there nowhere", ("no variable 'nowhere'",)),
    "a pull of no name": ("%flame pull 1a", ("'1a' is not a variable name",)),
    "a pull of what cannot travel": ("%flame pull there far_lock", ("lock", "trust")),
    "a file that is not here": ("%flame put /nowhere/at/all there.txt", ("/nowhere/at/all",)),
    "a file that is not there": ("%flame get /nowhere/at/all here.txt", ("/nowhere/at/all",)),
    "a file to nowhere": ("%flame put one", ("%flame put needs SRC and DST: %flame put SRC… DST",)),
    "a module that is not here": ("%flame sendmodule nowhere_at_all", ("no module nowhere_at_all here",)),
    "a module's file that is not here": ("%flame sendmodule /nowhere/at_all.py", ("/nowhere/at_all.py",)),
    "a module's file of a wrong name": ("%flame sendmodule /nowhere/2nd.py", ("/nowhere/2nd.py",)),
    "the source of no module": ("%flame getmodule nowhere_at_all", ("nowhere_at_all",)),
    "a source to nowhere": ("%flame getmodule textwrap /nowhere/at/all.py", ("/nowhere/at/all.py",)),
    "a script that is not here": ("%flame run /nowhere/at_all.py", ("/nowhere/at_all.py",)),
    "a function that is none": ("%flame run here(1)", ("here is not a function",)),
    "arguments that are none": ("%flame run len(*5)", ("[*5] has no value here", "TypeError")),
    "named arguments that are none": ("%flame run len(**5)", ("dict(**5) has no value here", "TypeError")),
    "a function that is not here": ("%flame run nowhere(1)", ("nowhere has no value here",)),
    "a job that is none": ("%flame jobs 99", ("no job 99",)),
    "a job's number that is none": ("%flame jobs first", ("JOB is a whole number, not 'first'",)),
    "to cancel nothing": ("%flame jobs --cancel", ("no job",)),
    "a cell's unknown option": ("%%flame --speed\n1", ("%%flame has no option --speed; %%flame? lists its options",)),
    "a cell's option cut short": ("%%flame --no-raise\n1", ("no option --no-raise; did you mean --no-raise-error?",)),
    "a cell's word too many": ("%%flame pi\n1", ("%%flame takes no arguments, so not 'pi'",)),
    "a cell's timeout that is none": ("%%flame --timeout soon\n1", ("--timeout is a number, not 'soon'",)),
    "a cell's timeout below zero": ("%%flame --timeout -1\n1", ("-1",)),
    "a cell's variable that is not here": ("%%flame -i here -i nowhere\n1", ("no variable 'nowhere' here",)),
    "a cell's variable of no name": ("%%flame -o 1a\n1", ("'1a' is not a variable name",)),
    "a cell's job of no name": ("%%flame --out 1a\n1", ("'1a' is not a variable name",)),
    "a cell's variable that cannot travel": ("%%flame -i lock\nnew = 1", ("lock", "trust")),
    "a cell of blank lines": ("%%flame\n\n   \n", ("empty",)),
    "a cell's quote that is not closed": ("%%flame -t 'pi\n1", ("the quotation is not closed",)),
    "a cell's pull of what is not there": ("%%flame -o here -o nowhere\nhere = 2", ("no variable 'nowhere'",)),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_else(connected: Shell, case: str) -> None:
    typed, words = CASES[case]
    names, there = _names(connected), connected.ip.user_ns["pi"].names()
    ran = connected.run(typed)
    lines = [line for line in ran.text.splitlines() if line.strip()]
    assert len(lines) == 1, ran.text
    assert ran.error is not None
    assert "Traceback" not in ran.text
    for word in words:
        assert word in lines[0]
    assert _names(connected) == names
    if "-o here" not in typed:  # that cell did run
        assert connected.ip.user_ns["pi"].names() == there
    connections = connected.ip.magics_manager.registry["FlameMagics"].connections
    assert (connections.names, connections.current) == (["pi"], "pi")


def _names(shell: Shell) -> dict[str, object]:
    return {
        name: value for name, value in shell.names.items() if not name.startswith("_") and name not in ("In", "Out")
    }


def test_nothing_is_connected(tmp_path: Path) -> None:
    lines = "%flame use pi", "%flame eval 1", "%flame exec 1", "%flame run f.py", "%flame module os", "%flame push a=1"
    more = "%flame pull a", "%flame put a b", "%flame get a b", "%flame getmodule os", "%flame console", "%%flame\n1"
    with ipython(tmp_path) as shell:
        for typed in (*lines, *more, "%flame disconnect", "%flame sessions", "%flame builtin open", "%%flame --bg\n1"):
            ran = shell.run(typed)
            assert len(ran.text.strip().splitlines()) == 1, ran.text
            assert "%flame connect" in ran.text
            assert ran.error is not None
        assert "not connected" in shell.ok("%flame status").out
        assert "no jobs" in shell.ok("%flame jobs").out
        assert shell.ok("%flame disconnect --all").text == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a", [("a", None)]),
        ("a b c", [("a", None), ("b", None), ("c", None)]),
        ("a=1 b", [("a", "1"), ("b", None)]),
        ("a=1 + 2 b=3", [("a", "1 + 2"), ("b", "3")]),
        ("a=x if y else z b", [("a", "x if y else z"), ("b", None)]),
        ("a=[n for n in m] b='c d=e' f", [("a", "[n for n in m]"), ("b", "'c d=e'"), ("f", None)]),
        ("a=f(k=1, l=2) b", [("a", "f(k=1, l=2)"), ("b", None)]),
        ("a=lambda x: x b=2", [("a", "lambda x: x"), ("b", "2")]),
        ("a=not b", [("a", "not b")]),
        ("a='x  y'", [("a", "'x  y'")]),
    ],
)
def test_assignments_of_a_line(text: str, found: list[tuple[str, str | None]]) -> None:
    assert assignments(text) == found


def test_calls_of_functions() -> None:
    assert call_of("f(1)") is not None
    assert call_of("a.b.f(x=[1, 2])") is not None
    for text in ("f.py", "./f(1).py", "f(1) g", "1 + f(1)", "(lambda: 1)()"):
        assert call_of(text) is None
