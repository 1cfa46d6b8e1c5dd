"""What Tab inserts: whatever a server offers, one line in place of the word under the cursor, and no order to us."""

from __future__ import annotations

import contextlib
import keyword
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from farside import FlameServer
from hostile import READY, FakeAgent
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.completer import CompletionContext
from kernels import remote_flame

import flame
from flame_kernel.commands.tab import wanted
from flame_kernel.errors import FlameError
from flame_kernel.magics.completion import Matcher
from flame_kernel.remote import candidates
from flame_kernel.remote.candidates import _OF_KIND as candidates_of_kind
from flame_kernel.remote.candidates import _as_one_word
from flame_kernel.security.completions import Offers, identifiers, modules, offered, paths


def reply(matches: Any, start: Any, end: Any, types: Any = None) -> dict[str, Any]:
    metadata = {} if types is None else {"_jupyter_types_experimental": types}
    return {"status": "ok", "matches": matches, "cursor_start": start, "cursor_end": end, "metadata": metadata}


def texts(code: str, matches: Any, start: int | None = None, end: int | None = None) -> list[str]:
    """What is offered at the ``|`` of ``code``; ``start`` counts back from it."""
    cursor = code.index("|")
    code = code.replace("|", "", 1)
    found = offered(reply(matches, cursor - (start or 0), cursor + (end or 0)), code, cursor)
    return [one.text for one in found.offers]


# What servers offer in good faith: the code, how far back it begins, and a completion.
HONEST = {
    "a name": ("pri|", 3, "print"),
    "a name in another case": ("PRI|", 3, "print"),
    "an attribute": ("import os\nos.pa|", 2, "path"),
    "an attribute with its object": ("os.pa|", 5, "os.path"),
    "an attribute of an item": ("d[0].ab|", 7, "d[0].abc"),
    "an attribute of a call": ("f(a, b).att|", 11, "f(a, b).attribute"),
    "a keyword argument": ("f(x, se|", 2, "sep="),
    "a module": ("import os.pa|", 2, "path"),
    "a module with its package": ("import os.pa|", 5, "os.path"),
    "a name to import": ("from os import (path, en|", 2, "environ"),
    "a magic": ("%time|", 5, "%timeit"),
    "a cell's magic": ("%%ti|", 4, "%%timeit"),
    "a magic's argument": ("%matplotlib inl|", 3, "inline"),
    "a magic's setting": ("%config InlineBackend.fig|", 17, "InlineBackend.figure_format"),
    "a file of a magic": ("%run my\\ sc|", 6, "my\\ script.py"),
    "a file of a command": ("!cat /etc/ho|", 7, "/etc/hostname"),
    "a key": ('d["al|', 2, 'alpha"]'),
    "a key with blanks": ("d['two wo|", 6, "two words']"),
    "a key without quotes": ("d[|", 0, "'two words']"),
    "a number as a key": ("d[1|", 1, "10]"),
    "a tuple as a key": ("d[|", 0, "('a', 1)]"),
    "the second part of a key": ('d["a", "b|', 1, 'bc"]'),
    "a key that has a percent sign": ("d[|", 0, "'100%']"),
    "a file": ('open("da|', 2, "data.csv"),
    "a file with blanks": ('open("my fi|', 5, "my file.txt"),
    "a folder": ("open('/usr/loc|", 3, "local/"),
    "a file at home": ("open('~/no|", 4, "~/notes.txt"),
    "a file with an apostrophe": ('open("it|', 2, "it's.txt"),
    "a file in code": ("da|", 2, "data.csv"),
    "a file in code with blanks": ("my|", 2, "my\\ file.csv"),
    "a Greek letter": ("\\alpha|", 6, "α"),
    "LaTeX": ("\\alp|", 4, "\\alpha"),
    "the name of a letter": ("\\GREEK SMALL LETTER ALP|", 23, "\\GREEK SMALL LETTER ALPHA"),
    "the name of a letter in part": ("\\GREEK SMALL LETTER ALP|", 3, "ALPHA"),
    "what LaTeX a letter has": ("\\α|", 2, "\\alpha"),
    "what name a letter has": ("\\α|", 2, "\\GREEK SMALL LETTER ALPHA"),
    "a name in another script": ("größ|", 4, "größe"),
    "nothing typed": ("os.|", 0, "path"),
    "an assignment of a magic": ("x = %ti|", 3, "%timeit"),
    "a name in an f-string": ('f"{na|', 2, "name"),
}


@pytest.mark.parametrize("what", HONEST)
def test_what_is_honest_is_offered(what: str) -> None:
    code, start, match = HONEST[what]
    assert texts(code, [match], start) == [match]


def test_the_rest_of_the_word_may_be_replaced_too() -> None:
    assert texts("os.pa|th + 1", ["path"], 2, 2) == ["path"]
    assert texts("os.pa|th + 1", ["path"], 2, 3) == []


# And what nobody offers in good faith.
HOSTILE = {
    "another line": ("pri|", 3, "print\nimport os"),
    "another line by a carriage return": ("pri|", 3, "print\rimport os"),
    "another line of Unicode": ("pri|", 3, "print\u2028import os"),
    "an escape": ("pri|", 3, "print\x1b[2J"),
    "a C1 control": ("pri|", 3, "print\x9b2J"),
    "text turned around": ("pri|", 3, "print\u202e"),
    "half a character": ("pri|", 3, "print\ud800"),
    "nothing": ("pri|", 3, ""),
    "a cell for this machine": ("pri|", 3, "%%local"),
    "an order": ("pri|", 3, "%flame"),
    "an order with its arguments": ("%fla|", 4, "%flame put ~/.ssh/id_rsa /tmp/"),
    "an order behind a blank": ("pri|", 3, " %flame"),
    "an order at the start of a line": ("|", 0, "%flame"),
    "a command": ("pri|", 3, "!touch /tmp/x"),
    "a percent sign more": ("%|", 1, "%%local"),
    "a percent sign beside the one that is typed": ("%|", 0, "%local"),
    "an order put behind the sign": ("%|", 0, "flame put ~/.ssh/id_rsa /tmp/"),
    "a command assigned": ("x|", 1, "x = !touch"),
    "a second statement": ("os.pa|", 2, "path;import"),
    "words in code": ("os.pa|", 2, "path if True else"),
    "the whole line": ("x = os.pa|", 9, "evil"),
    "the line before": ("import os\nos.pa|", 15, "evil"),
    "behind the cursor": ("os.pa|", -1, "th"),
    "a string that ends": ('open("da|', 2, 'data").read() + evil("'),
    "a string that ends soon": ('open("da|', 2, 'data" + evil'),
    "more than anyone reads": ("pri|", 3, "print" + "x" * 2000),
    "no text": ("pri|", 3, 5),
    "what is none": ("pri|", 3, None),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_is_left_out(what: str) -> None:
    code, start, match = HOSTILE[what]
    assert texts(code, [match], start) == []


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": "ok"},
        reply("print", 0, 2),
        reply({"print": 1}, 0, 2),
        reply(["print"], "0", 2),
        reply(["print"], 0, None),
        reply(["print"], True, 2),
        reply(["print"], -1, 2),
        reply(["print"], 0, 10**6),
        reply(["print"], 2, 0),
        reply(["print"], 0.0, 2.0),
        {**reply(["print"], 0, 2), "status": "error"},
    ],
)
def test_a_misshapen_reply_offers_nothing(answer: dict[str, Any]) -> None:
    assert offered(answer, "pr", 2) == Offers(2, 2)


def test_types_are_of_the_matches_and_of_their_place() -> None:
    """Front ends insert the texts that stand with the types, where there are any."""
    types: list[Any] = [
        {"text": "print", "type": "function", "signature": "(x)", "start": 0, "end": 10**6},
        {"text": "%%local\nevil", "type": "function"},
        {"text": "pride", "type": "\x1b[2J", "signature": "\n"},
        {"text": 5},
        7,
    ]
    content = offered(reply(["print", "pride", "%%local\nevil"], 0, 2, types), "pr", 2).reply()
    assert content["matches"] == ["print", "pride"]
    assert content["metadata"] == {
        "_jupyter_types_experimental": [
            {"start": 0, "end": 2, "text": "print", "type": "function", "signature": "(x)"},
            {"start": 0, "end": 2, "text": "pride", "type": "", "signature": ""},
        ]
    }


def test_a_long_line_costs_little() -> None:
    code = "x" * 500_000 + " " + "a." * 250_000
    assert texts(code + "pa|", ["path"], 2) == ["path"]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=20), st.integers(-5, 40), st.integers(-5, 40))
def test_one_word_of_one_line_whatever_comes(before: str, after: str, match: str, start: int, end: int) -> None:
    code, cursor = before + after, len(before)
    found = offered(reply([match], start, end), code, cursor)
    for one in found.offers:
        new = code[: found.start] + one.text + code[found.end :]
        line = code.rfind("\n", 0, cursor) + 1
        assert one.text.isprintable()
        assert new[:line] == code[:line]
        assert found.end - cursor <= len(after)
        assert code[cursor : found.end].replace("_", "a").isalnum() or found.end == cursor
        assert not new[line:].lstrip().startswith(("%", "!")) or code[line:cursor].lstrip().startswith(("%", "!"))


def test_names_are_names() -> None:
    found = identifiers(["a", "b c", "x\nimport os", "class", "1", "", "é", 5, None, "a.b", "x" * 5000])
    assert found == ["a", "é"]
    assert modules(["os.path", "os", "os.", ".os", "os.path\nimport evil", "a-b", "import"]) == ["os.path", "os"]
    assert paths(["a b", "-rf", "a\nb", "\u202e", "", "é", 5, None]) == ["a b", "é"]
    assert identifiers("abc") == modules(None) == paths({"a": 1}) == []


@pytest.mark.parametrize(
    ("path", "quote", "word"),
    [
        ("data.csv", "", "data.csv"),
        ("my file", "", '"my file"'),
        ('6" pipe', "", "'6\" pipe'"),
        ("it's", "", '"it\'s"'),
        ("a'b\"c", "", ""),
        ("my file", '"', "my file"),
        ('x" ~/.bashrc "', '"', ""),
    ],
)
def test_a_path_is_one_argument(path: str, quote: str, word: str) -> None:
    assert _as_one_word(path, quote) == word


# -- names of the far side in our lines --------------------------------------------------------------------------------


class Listing:
    """The files of a far side that answers what it wants to, whatever it is asked for."""

    names: ClassVar[list[str]] = []

    def __init__(self, *way: Any) -> None:
        pass

    def request(self, **asked: Any) -> Any:
        return {"found": [{"kind": "file", "name": name} for name in self.names]}

    def close(self) -> None:
        pass


def paths_offered(rest: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is offered behind ``%flame`` for a far side that says that these files are there."""
    cwd: Future[Any] = Future()
    cwd.set_result({"cwd": "/"})
    session = SimpleNamespace(
        gone=None, server={"servertype": "thread"}, target=None, wire_message=None, request=lambda kind: cwd
    )
    monkeypatch.setattr(candidates, "far_files", Listing)
    monkeypatch.setattr(Listing, "names", names)
    side = candidates.Side(lambda name: session, list, lambda: ["lab"], lambda word: [])  # type: ignore[arg-type, return-value]
    return [text for text, kind in candidates.candidates(wanted(rest, "kernel"), side).found if kind == "path"]


@pytest.mark.parametrize(
    ("rest", "names", "found"),
    [
        ("get da", ["data", "other", ".bashrc", "da-", "Data"], ["data", "da-"]),
        ("get x ~/proj", [".bashrc", "proj", "bin"], ["~/proj"]),  # it would be written here
        ("get x ~/", [".bashrc", "proj"], ["~/proj"]),
        ("get x ~/.ba", [".bashrc", "proj"], ["~/.bashrc"]),
        ("put x ", ["lab:x", ":x", "x:", "fine"], ["fine"]),  # another server's
        ("put x lab:", ["a:b", "fine"], ["lab:a:b", "lab:fine"]),
        ("get ", ["-rf", "--target=lab", "fine"], ["fine"]),
        ("get d/", ["a/b", "..", "../x", "fine"], ["d/fine"]),
    ],
)
def test_a_path_goes_on_with_what_was_typed(
    rest: str, names: list[str], found: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths_offered(rest, names, monkeypatch) == found


@pytest.mark.parametrize("name", ["--force", "-tlab", "--target=lab"])
def test_no_name_is_an_option(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(candidates_of_kind, "session", lambda side, target, word: [(name, "flame")])
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("")
    for rest in ("attach ", "sessions --kill ", "connect lab --session ", "sync ", "put "):
        assert name not in paths_offered(rest, [], monkeypatch)
        side = candidates.Side(lambda name: None, list, list, lambda word: [])
        assert name not in [text for text, _ in candidates.candidates(wanted(rest, "kernel"), side).found]


# -- in lines that IPython expands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["here", "there", "session", "either"])
@pytest.mark.parametrize("name", ["{open('x', 'w')}", "a{b}", "a$b", "$b", "a}b", "{{b}}"])
def test_no_name_is_expanded_when_the_line_is_run(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``{…}`` in a line of ours is Python of this machine: who names a file, there or here, must not have it run."""
    line = {
        "here": "%flame put ",
        "there": "%flame get ",
        "session": "%flame attach ",
        "either": "%flame sync ",
    }[kind]
    monkeypatch.setitem(candidates_of_kind, kind, lambda side, target, word: [(name, "path"), ("fine.txt", "path")])
    assert [one.text for one in offers_in(line)] == ["fine.txt"]


def test_a_folder_here_may_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("{open('x', 'w')}", "fine.txt"):
        (tmp_path / name).write_text("")
    assert [one.text for one in offers_in("%flame put ")] == ["fine.txt"]


def offers_in(line: str) -> Any:
    """What the magics' Tab offers at the end of a line, where nothing is connected."""

    class Nothing:
        names: ClassVar[list[str]] = []

        def pick(self, name: str | None = None) -> Any:
            raise FlameError("not connected")

    owner = SimpleNamespace(
        connections=Nothing(), tab_patience=30.0, shell=SimpleNamespace(user_ns={}, user_ns_hidden={})
    )
    context = CompletionContext(token="", full_text=line, cursor_position=len(line), cursor_line=0, limit=None)
    return Matcher(owner).match(context)["completions"]


# -- in the kernel ---------------------------------------------------------------------------------------------------


def completing(matches: list[str], start: int, end: int) -> FakeAgent:
    """An agent that answers each question for completions so."""

    def submit(agent: FakeAgent, request: dict[str, Any]) -> Any:
        one = request["request"]
        if one["kind"] == "complete":
            agent.say({"type": "complete_reply", "request": one["id"], "content": reply(matches, start, end)})
        elif one["kind"] == "execute":
            agent.reply(one["id"])
        else:
            agent.answer(one)
        return {"new": True}

    agent = FakeAgent({"submit": submit})
    agent.say(READY)
    return agent


def test_the_kernel_offers_nothing_for_what_acts_here(tmp_path: Any) -> None:
    with (
        contextlib.closing(completing(["path"], 0, 8)) as agent,
        remote_flame(env={"FLAME_TARGET": agent.location}) as k,
    ):
        k.execute("1")
        assert k.complete("pa")["matches"] == []  # it says that it replaces more than there is
        agent.ops["submit"] = completing_submit(["path"], 11, 13)
        assert k.complete("os = 1\nos.pa")["matches"] == []  # … or begins before the word
        agent.ops["submit"] = completing_submit(["path"], 10, 12)
        assert k.complete("os = 1\nos.pa")["matches"] == ["path"]
        agent.ops["submit"] = completing_submit(["path"], 11, 13)
        assert k.complete("%flame put pa")["matches"] == []
        agent.ops["submit"] = completing_submit(["path"], 11, 13)
        assert k.complete("%%local\nos.pa")["matches"] == []
        agent.ops["submit"] = completing_submit(["path"], 11, 13)
        assert k.complete("%%remote\n  pa")["matches"] == ["path"]  # as a server's own magics are


def completing_submit(matches: list[str], start: int, end: int) -> Any:
    agent = completing(matches, start, end)
    agent.close()
    return agent.ops["submit"]


# -- of stand-ins ----------------------------------------------------------------------------------------------------

ODD = """
class Odd:
    def __dir__(self):
        return ["fine", "x\\nimport os", "a b", "%%local", "class", "\\x1b[2J"]
"""


def test_attributes_of_stand_ins_are_names(flame_server: Callable[..., FlameServer]) -> None:
    """Whoever the server is: one with a key as well."""
    for server in (flame_server(), flame_server(key="k" * 32)):
        key = {"key": "k" * 32} if server.key else {}
        with flame.connect(server.location, place="process", **key) as pi:
            pi.execute(ODD)
            found = dir(pi.evaluate("Odd()"))
            assert {"fine", "fetch", "ref"} == set(found)
            assert all(name.isidentifier() and not keyword.iskeyword(name) for name in dir(pi.modules))
            assert "os" in dir(pi.modules)
            pi.execute("globals()['x\\nimport os'] = globals()['good_name'] = 1")
            keys = pi._ipython_key_completions_()
            assert "good_name" in keys
            assert not any(unicodedata.category(sign) == "Cc" for name in keys for sign in name)
