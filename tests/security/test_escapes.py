"""Terminal escapes of a server reach a terminal by no way but output: not by errors, names, notes, help or signatures.

Colours may stay where output has them; what moves the cursor, sets the clipboard, makes a link or turns text around
goes, whoever the server is.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pickle
import pydoc
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from farside import FlameServer
from hypothesis import given, settings
from hypothesis import strategies as st

import flame
from flame_kernel import errors
from flame_kernel.cli import output
from flame_kernel.cli.subcommands import sessions
from flame_kernel.commands import monitor
from flame_kernel.commands.status import status
from flame_kernel.connect.target import Location, Target
from flame_kernel.files.progress import Tally
from flame_kernel.kernel.iopub import Publisher
from flame_kernel.magics.output import in_one_line
from flame_kernel.remote.exceptions import raised_there
from flame_kernel.remote.proxy import stand_in
from flame_kernel.remote.remote import Remote
from flame_kernel.terminal import coloured_text, one_line, plain_text

WAYS = {
    "clipboard": "\x1b]52;c;T1dORUQ=\x07",
    "clipboard by C1": "\x9d52;c;T1dORUQ=\x9c",
    "title": "\x1b]0;owned\x1b\\",
    "link": "\x1b]8;;http://evil.example\x1b\\here\x1b]8;;\x1b\\",
    "cursor": "\x1b[2J\x1b[H",
    "cursor by C1": "\x9b2J",
    "device": "\x1bP$q\x1b\\\x1b_x\x1b\\\x1b^x\x1b\\\x1bXx\x1b\\",
    "reset": "\x1bc",
    "back": "\b\b\b\b\r",
    "turned": "\u202egnp.exe\u202c\u2066x\u2069\u200f",
    "hidden": "\U000e0041\ufeff\u200b",
    "unfinished": "\x1b]52;c;",
    "inside another": "\x1b\x1b[31m]52;c;x\x07",
    "half a character": "\ud800",
}
ALL = "a" + "b".join(WAYS.values()) + "z"


def is_clean(text: str, colours: bool = False) -> bool:
    """Whether a terminal shows ``text`` as it is, and in its order."""
    if colours:
        text = plain_text(text) if coloured_text(text) == text else "\x1b"
    return all(one.isprintable() or one in "\n\t" for one in text)


@pytest.mark.parametrize("way", WAYS)
def test_three_measures(way: str) -> None:
    text = f"before {WAYS[way]} after"
    assert is_clean(plain_text(text))
    assert is_clean(one_line(text))
    assert is_clean(coloured_text(text), colours=True)
    if way not in ("unfinished", "clipboard", "clipboard by C1"):
        assert plain_text(text).startswith("before ")
        assert plain_text(text).endswith("after")


def test_what_stays() -> None:
    assert plain_text("a\tb\n\x1b[1;31mred\x1b[0m é 漢 👩\u200d💻") == "a\tb\nred é 漢 👩\u200d💻"
    assert coloured_text("\x1b[38;5;9mred\x1b[0m\r\n") == "\x1b[38;5;9mred\x1b[0m\n"
    assert one_line("  a\n\tb   c ") == "a b c"
    assert one_line("x" * 300, 10) == "x" * 9 + "…"


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet=st.sampled_from("\x1b\x9b\x9d]\\[0123;mMcHJ\x07\x9c\b\r\n\t\u202e\u2028ab\x00"), max_size=60))
def test_nothing_is_made_by_what_is_taken_away(text: str) -> None:
    assert is_clean(plain_text(text))
    assert is_clean(coloured_text(text), colours=True)
    assert one_line(text).isprintable()


# -- errors of ours ----------------------------------------------------------------------------------------------------

MADE: dict[str, Callable[[], errors.FlameError]] = {
    "FlameError": lambda: errors.FlameError(ALL),
    "TargetError": lambda: errors.TargetError(ALL),
    "CannotConnect": lambda: errors.CannotConnect(ALL, "closed", ALL),
    "ConnectionLost": lambda: errors.ConnectionLost(ALL, ALL),
    "CallTimeout": lambda: errors.CallTimeout(ALL, ALL, 3.0),
    "UnsafeAnswer": lambda: errors.UnsafeAnswer(ALL, ALL),
    "SessionGone": lambda: errors.SessionGone(ALL, ALL, ALL),
    "TakenOver": lambda: errors.TakenOver(ALL, ALL, ALL),
    "TransferError": lambda: errors.TransferError(ALL, ALL),
    "CannotTravel": lambda: errors.CannotTravel(ALL),
    "ObjectGone": lambda: errors.ObjectGone(ALL),
    "NotSent": lambda: errors.NotSent(ALL),
    "NotAnswered": lambda: errors.NotAnswered(ALL, ALL),
    "GroupError": lambda: errors.GroupError(3, {ALL: errors.RemoteError(ALL, ALL, ALL)}, None, [plain_text(ALL)]),
    "RemoteError": lambda: errors.RemoteError(ALL, ALL, ALL),
    "AgentError": lambda: errors.AgentError(ALL, ALL),
}


def printed(error: BaseException) -> str:
    """What Python prints of an exception that nobody catches, and what IPython does."""
    shown = "".join(traceback.format_exception(error))
    render = getattr(error, "_render_traceback_", None)
    return shown + "\n".join(render() if render is not None else ())


def test_every_error_is_made_here() -> None:
    known = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.FlameError)}
    assert known == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_errors_hold_no_escapes(name: str) -> None:
    error = MADE[name]()
    for one in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert is_clean(str(one))
        assert is_clean(printed(one))
        assert all(is_clean(part) for part in one.args if isinstance(part, str))
        assert all(is_clean(part) for part in vars(one).values() if isinstance(part, str))
    with pytest.raises(errors.FlameError) as shown, in_one_line():
        raise error
    assert is_clean(printed(shown.value), colours=True)


BASES = ["SyntaxError", "IndentationError", "KeyError", "OSError", "ImportError", "NameError", "ValueError", "Custom"]


@pytest.mark.parametrize("base", BASES)
def test_exceptions_of_the_far_side_hold_none(base: str) -> None:
    facts: dict[str, Any] = dict.fromkeys(("msg", "filename", "filename2", "text", "name", "path", "strerror"), ALL)
    facts |= {"args": (ALL, (ALL, 1, 1, ALL)), "lineno": 1, "offset": 1, "errno": 2}
    content = {"ename": ALL, "evalue": ALL, "traceback": [ALL, "\x1b[31mred\x1b[0m"], "bases": [base]}
    error: Any = raised_there(content, facts)
    assert is_clean(printed(error), colours=True)
    assert is_clean(str(error))
    assert is_clean(repr(error))
    assert is_clean(error.args[0])
    for name in facts.keys() - {"args"}:
        assert is_clean(str(getattr(error, name, "")))
    assert "\x1b[31mred\x1b[0m" in error._render_traceback_()  # colours stay


@pytest.mark.parametrize("number", [10**5000, -(10**5000), 10**30, -1], ids=["huge", "low", "large", "below"])
def test_numbers_of_lines_that_python_cannot_say(number: int) -> None:
    facts = {"args": ("x", number), "lineno": number, "offset": number, "msg": "m", "filename": "f", "text": "t"}
    error = raised_there({"ename": "SyntaxError", "evalue": "m", "bases": ["SyntaxError"]}, facts)
    assert "SyntaxError" in printed(error)
    assert "SyntaxError" in repr(error)


def test_the_value_of_a_generator_stays_what_it_is() -> None:
    error: Any = raised_there({"ename": "StopIteration", "bases": ["StopIteration"]}, {"args": (ALL,), "value": ALL})
    assert error.value == error.args[0] == ALL


# -- stand-ins ---------------------------------------------------------------------------------------------------------


class Calls:
    """What a stand-in needs to be made, answering each look with ALL."""

    name = "pi"

    def __init__(self) -> None:
        self.session = self
        self.gone = None
        self.answer: Any = ALL

    def keep(self) -> None:
        pass

    def forget(self, known: str) -> None:
        pass

    def perform(self, root: Any, steps: Any, mode: str = "auto", **options: Any) -> Any:
        if steps[-1] == ("about", "signature"):
            return [[["a", 1, ALL, ALL]], ALL]
        return self.answer


@pytest.mark.parametrize("kind", ["object", "class", "module", "routine"])
def test_names_of_stand_ins_hold_none(kind: str) -> None:
    calls: Any = Calls()
    description = {"id": "1", "kind": kind, "class": ALL, "name": ALL, "module": ALL, "protocol": ["__call__"]}
    one = stand_in(calls, description)
    assert is_clean(repr(one), colours=True)
    assert is_clean(one.__doc__ or "")
    assert is_clean(str(inspect.signature(one)))
    for name in ("__name__", "__qualname__", "__file__", "__version__"):
        assert is_clean(getattr(one, name))
    for tried in (lambda: one.__nothing__, lambda: pickle.dumps(one)):
        with pytest.raises((AttributeError, TypeError)) as caught:
            tried()
        assert is_clean(str(caught.value))
    if kind in ("routine", "object"):
        assert is_clean(pydoc.plain(pydoc.render_doc(one)), colours=True)
    one._flame_calls.gone = errors.SessionGone("pi", "x")
    assert is_clean(repr(one))


@pytest.fixture(params=["nobody vouches for it", "it has a key"])
def pi(request: pytest.FixtureRequest, flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    key = "k" * 32 if request.param == "it has a key" else None
    with flame.connect(flame_server(key=key).location, place="process", **({"key": key} if key else {})) as remote:
        yield remote


FAR = """
E = %r
class Odd:
    def __repr__(self): return E
    def __str__(self): return E
    def __dir__(self): return [E]
Odd.__doc__ = Odd.__name__ = Odd.__qualname__ = Odd.__module__ = E.encode("utf-8", "replace").decode()
def raising(): raise SyntaxError(E, (E, 1, 1, E))
def odd(): "doc"
odd.__name__ = odd.__qualname__ = odd.__doc__ = E.encode("utf-8", "replace").decode()
"""


def test_nothing_of_a_real_server_acts_on_a_terminal(pi: Remote) -> None:
    pi.execute(FAR % ALL)
    odd = pi.evaluate("Odd()")
    kind = pi.evaluate("Odd", ref=True)
    function = pi.evaluate("odd", ref=True)
    for one in (odd, kind, function):
        assert is_clean(repr(one), colours=True)
        assert is_clean(one.__doc__ or "")
        page = io.StringIO()
        with contextlib.redirect_stdout(page):
            print(one._repr_mimebundle_()[0]["text/plain"] if pi.target.key is None else "")
        assert "\x1b]" not in page.getvalue()
    assert is_clean(pydoc.plain(pydoc.render_doc(function)))
    assert "\x1b]" not in str(odd) + format(odd)  # printing one is no error, and no value either
    with pytest.raises(SyntaxError) as caught:
        pi.evaluate("raising()")
    assert is_clean(printed(caught.value), colours=True)
    with pytest.raises(AttributeError) as missing:
        getattr(odd, "__" + "nothing__")
    assert is_clean(str(missing.value))
    assert pi.evaluate("E") == ALL  # a value is a value


# -- notes, tables, looks ----------------------------------------------------------------------------------------------


def test_notes_of_a_transfer_hold_none() -> None:
    tally = Tally("x", False)
    tally.note(b"name\x1b]0;x\x07\r", f"left out: {ALL}")
    tally.fail(b"name", ALL, "", "here")
    with pytest.raises(errors.TransferError) as caught:
        tally.raise_failures()
    assert all(is_clean(note) and "\n" not in note for note in tally.notes)
    assert is_clean(str(caught.value))
    with pytest.raises(errors.TransferError) as full:
        tally.fail(b"name", ALL, "full", "here")
    assert is_clean(str(full.value))


def test_tables_hold_none(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(("session", "state"), [(ALL, "x\ry"), ("a\nb", "c")])
    out = capsys.readouterr().out
    assert is_clean(out)
    assert len(out.splitlines()) == 3


def test_where_and_top_hold_none() -> None:
    frame = {"file": ALL, "line": 1, "name": ALL, "source": ALL}
    stack = {"kind": "cell", "name": ALL, "state": ALL[:30], "since": 1.0, "frames": [frame]}
    reply = {"status": "ok", "pid": 1, "place": "child", "note": ALL, "stacks": [stack]}
    assert is_clean(monitor.where_text(reply, True, "pi"))
    top = {"status": "ok", "pid": 1, "host": "\x1b[2J", "files": [ALL], "threads": [{"name": ALL, "id": 1, "cpu": 1.0}]}
    assert is_clean(monitor.top_text(top, "pi"))
    with pytest.raises(errors.FlameError) as caught:
        monitor.checked({"status": "error", "evalue": ALL})
    assert is_clean(str(caught.value))


# -- names in our own lines --------------------------------------------------------------------------------------------

FORGED = "bob\n\x1b[2JWarning: type your key\u2028and\u2029press\x85Enter\r"


def test_who_asks_for_a_session_says_no_line_of_ours() -> None:
    """Another user of the server has that name from himself."""
    said: list[str] = []
    publisher = Publisher(
        lambda kind, content, *_, **__: said.append(content["text"]), lambda *_: None, lambda *_: None
    )
    session: Any = Quiet()
    publisher.remember("r", {"header": {"msg_id": "r"}}, b"i")
    asks = {"type": "takeover_request", "request": None, "content": {"id": "1", "client": FORGED}}
    publisher.publish(session, [asks])
    assert len(said) == 1
    assert said[0].count("\n") == 1
    assert said[0].endswith("keeps it\n")
    assert "\n" not in publisher.takeovers(session)["1"]


class Quiet:
    """A session that nobody vouches for, and that is open."""

    target = Target(Location.parse("localhost:1"))
    session_id, location = "x", "localhost:1"
    missed, gone, trouble = 0, None, None
    running: ClassVar[list[Any]] = []
    server: ClassVar[dict[str, Any]] = {"host": FORGED, "pid": 1, "place": FORGED}
    ready: ClassVar[Future[Any]] = Future()


def test_where_cells_run_is_two_lines() -> None:
    session: Any = Quiet()
    assert len(status(session).splitlines()) == 2
    session.ready = Future()
    session.ready.set_result({"host": FORGED, "python": FORGED, "shell": "mini", "shell_reason": FORGED})
    assert len(status(session).splitlines()) == 2
    assert status(session).endswith("link up")


def test_sessions_are_told_of_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    visitor: Any = SimpleNamespace(end=lambda session: True)
    sessions._end(visitor, {"session": FORGED})
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert is_clean(out)
