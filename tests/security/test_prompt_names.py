"""Prompts name the server that asks: on the same line as what it asks, whatever that is."""

from __future__ import annotations

import builtins
import contextlib
import getpass
import io
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from farside import FlameServer
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import remote_flame

import flame
from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.remote.foreground import Foreground
from flame_kernel.security.rendering import PROMPT_WIDTH

PLACE = Location("127.0.0.1", 41999)
NAME = "[127.0.0.1:41999] "
WHO = {"safe": Target(PLACE), "full": Target(PLACE, Secret(b"k" * 32)), "trusted": Target(PLACE, trust=True)}
FAKE = "[sudo] password for alice: "


def question(text: str, who: str = "safe", **more: Any) -> tuple[str, str]:
    target = Target(PLACE, **more) if more else WHO[who]
    return target.rendering(lambda request, sentence: None).question(text)


def columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


# -- what honest programs ask ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize(
    "text", ["", "> ", "Name: ", "Name:", "(Pdb) ", "ipdb> ", "Weiter? [j/n] ", "名前は？ ", ">>> "]
)
def test_a_short_prompt_stays_as_it_is(text: str, who: str) -> None:
    assert question(text, who) == ("", NAME + text)


def test_lines_above_the_last_are_output() -> None:
    assert question("Pick one:\n 1) a\n 2) b\n> ") == ("Pick one:\n 1) a\n 2) b\n", NAME + "> ")
    assert question("a\r\nb: ") == ("a\n", NAME + "b: ")
    assert question("really?\n") == ("really?\n", NAME)


def test_a_long_prompt_goes_on_above() -> None:
    words = "Enter the whole path of the file that shall be read, or nothing for data.csv in this folder: "
    before, prompt = question(words)
    assert prompt.startswith(NAME)
    assert columns(prompt) <= PROMPT_WIDTH + 1  # and a blank
    assert f"{before.strip()} {prompt.removeprefix(NAME)}" == words
    assert not before.strip().endswith("-")


def test_a_server_of_our_own_asks_as_it_likes() -> None:
    assert question("a\nb", own=True) == ("", "a\nb")


# -- what others ask ---------------------------------------------------------------------------------------------------

HOSTILE = {
    "carriage return": "\r" + FAKE,
    "backspaces": "\b" * 60 + FAKE,
    "newlines": "\n" * 60 + FAKE,
    "newlines of another kind": "\x0b\x0c\x85\u2028\u2029" * 20 + FAKE,
    "blanks": " " * 300 + FAKE,
    "blanks that do not break": "\xa0" * 300 + FAKE,
    "wide blanks": "\u3000" * 300 + FAKE,
    "letters that are blank": "\u2800\u3164\u115f\uffa0" * 100 + FAKE,
    "tabs": "\t" * 60 + FAKE,
    "text turned around": "\u202e" + FAKE[::-1] + "\u202c",
    "isolates": "\u2067" + FAKE + "\u2069",
    "the cursor moved": "\x1b[1G\x1b[2K" + FAKE,
    "the cursor moved by C1": "\x9b1G\x9b2K" + FAKE,
    "another screen": "\x1b[?1049h\x1b[H" + FAKE,
    "a title": "\x1b]0;this machine\x07" + FAKE,
    "a link": "\x1b]8;;http://evil.example\x1b\\" + FAKE,
    "invisible colours": "\x1b[8m" + FAKE,
    "words before it": "please wait " * 60 + FAKE,
    "a word before it": "x" * 300 + FAKE,
    "wide letters before it": "漢" * 300 + FAKE,
    "nothing that is seen": "\u200b\u200e\ufeff\U000e0041" * 300 + FAKE,
    "half a sequence": FAKE + "\x1b[",
}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("how", HOSTILE)
def test_the_name_is_on_the_line_of_the_prompt(how: str, who: str) -> None:
    before, prompt = question(HOSTILE[how], who)
    assert prompt.startswith(NAME)
    assert columns(prompt) <= PROMPT_WIDTH + 1
    assert all(one.isprintable() for one in prompt)
    assert not re.search(" {2}", prompt)
    assert before == "" or before.endswith("\n")
    if who == "safe":
        assert not re.search("[\x00-\x07\x0b-\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\\[[0-9;:]*m)", before)


def test_the_name_itself_is_short_and_is_seen() -> None:
    for name in ("x" * 500, "gpu\x1b[2K\r", "gpu\n\n\n", "\u202egpu", "gpu" + " " * 400):
        before, prompt = question(FAKE, name=name)
        assert before == ""
        assert re.match(r"\[[!-~…]{1,40}\] \[sudo\]", prompt), prompt


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400), st.sampled_from(sorted(WHO)))
def test_whatever_is_asked(text: str, who: str) -> None:
    before, prompt = question(text, who)
    assert prompt.startswith(NAME)
    assert prompt.isprintable()
    assert columns(prompt) <= PROMPT_WIDTH + 1
    assert before == "" or before.endswith("\n")


# -- where they are shown ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Far:
    """What a Foreground needs of a Remote."""

    def __init__(self) -> None:
        self.session = self
        self.target = WHO["safe"]
        self.answered: list[Any] = []

    def answer(self, number: int, line: str | None) -> None:
        self.answered.append((number, line))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts of ``input`` and ``getpass``, which answer ``x``."""
    found: list[str] = []

    def ask(prompt: str = "") -> str:
        found.append(prompt)
        return "x"

    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setattr(getpass, "getpass", ask)
    return found


def test_a_terminal_shows_the_name(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    screen, far = Terminal(), Far()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stdin", Terminal())
    foreground: Any = Foreground(far)  # type: ignore[arg-type]
    foreground.answer({"prompt": "one\ntwo: ", "input_id": 1})
    foreground.answer({"prompt": "\r" + FAKE, "password": True, "input_id": 2})
    assert asked == [NAME + "two: ", NAME + FAKE]
    assert far.answered == [(1, "x"), (2, "x")]
    # Colours of what was printed before, hiding ones too, are over before the prompt comes.
    assert screen.getvalue() == "one\n\x1b[0m\x1b[0m"


def test_a_password_is_asked_with_the_name_where_stdin_is_a_pipe(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``getpass`` asks at the terminal, whatever stdin is."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\n"))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    far = Far()
    foreground: Any = Foreground(far)  # type: ignore[arg-type]
    foreground.answer({"prompt": "\r" + FAKE, "password": True, "input_id": 1})
    assert asked == [NAME + FAKE]
    foreground.answer({"prompt": "name? ", "input_id": 2})
    assert far.answered == [(1, "x"), (2, "piped")]


def test_a_call_shows_the_name(
    flame_server: Callable[..., FlameServer], asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    server = flame_server(key="k" * 32)
    with flame.connect(server.location, key="k" * 32) as pi:
        pi.allow_stdin = True
        assert pi.evaluate(f"input('first\\n' + '\\r' + {FAKE!r})") == "x"
        assert asked == [f"[{server.location}] {FAKE}"]
        assert "first\n" in capsys.readouterr().out


def test_a_notebook_shows_the_name(flame_server: Callable[..., FlameServer]) -> None:
    with contextlib.ExitStack() as stack:
        server = flame_server()
        k = stack.enter_context(remote_flame(env=server.environ()))
        run = k.execute(f"input('first\\n' + '\\n' * 60 + {FAKE!r})", answers=("x",))
        (asked,) = run.of_type("input_request")
        assert asked.content["prompt"] == f"[{server.location}] {FAKE}"
        assert run.stdout.startswith("first\n")
        run = k.execute("breakpoint()\n1", answers=("c",))
        assert run.of_type("input_request")[0].content["prompt"].startswith(f"[{server.location}] ")


# -- colours that were shown before ------------------------------------------------------------------------------------

HIDING = "Password: \x1b[8m"  # what follows is not seen by who sits at a terminal
PLAIN = "\x1b[0m"
SHOWN: dict[str, Callable[[Any], Any]] = {
    "text": lambda one: one.text("r", "stdout", HIDING),
    "black on black": lambda one: one.text("r", "stderr", "\x1b[30;40m"),
    "text in two pieces": lambda one: (one.text("r", "stdout", "\x1b["), one.text("r", "stdout", "8mx")),
    "a value": lambda one: one.event({"type": "execute_result", "request": "r", "content": bundle()}),
    "a display": lambda one: one.event({"type": "display_data", "request": "r", "content": bundle()}),
    "an error": lambda one: one.event({"type": "error", "request": "r", "content": {"traceback": [HIDING]}}),
    "a page": lambda one: one.reply("r", {"payload": [{"source": "page", **bundle()}]}),
}


def bundle() -> dict[str, Any]:
    return {"data": {"text/plain": HIDING}, "metadata": {}}


@pytest.mark.parametrize("way", SHOWN)
def test_colours_do_not_hide_a_prompt(way: str) -> None:
    rendering = WHO["safe"].rendering(lambda request, sentence: None)
    SHOWN[way](rendering)
    assert rendering.question("x: ") == (PLAIN, NAME + "x: ")
    assert rendering.question("x: ") == ("", NAME + "x: ")


def test_colours_above_a_prompt_do_not_hide_it() -> None:
    before, prompt = question(f"{HIDING}\nx: ")
    assert (before, prompt) == (f"{HIDING}\n{PLAIN}", NAME + "x: ")


ENDED = {
    "plain": "text",
    "red, and the end of red": "\x1b[31mKeyboardInterrupt\x1b[39m",
    "bold on blue, and the end of each": "\x1b[1;44mx\x1b[22m\x1b[49m",
    "all of it ended": "\x1b[38;5;9;1mred\x1b[48;2;1;2;3mx\x1b[0m",
    "ended without a number": "\x1b[8mx\x1b[m",
}
LEFT = {
    "red begins again": "\x1b[31mx\x1b[39m\x1b[31m",
    "hidden, another ended": "\x1b[8;1mx\x1b[22m",
    "one of 256": "\x1b[38;5;0mx",
    "a zero among the numbers of a colour": "\x1b[38;2;0;0;0mx",
    "with colons": "\x1b[38:5:0mx",
    "of no known meaning": "\x1b[777mx",
    "behind a reset": "\x1b[0;8mx",
}


@pytest.mark.parametrize("name", ENDED)
def test_colours_that_have_ended_add_nothing_to_the_output(name: str) -> None:
    rendering = WHO["safe"].rendering(lambda request, sentence: None)
    rendering.text("r", "stdout", ENDED[name])
    assert rendering.question("x: ") == ("", NAME + "x: ")


@pytest.mark.parametrize("name", LEFT)
def test_colours_that_are_left_on_end_before_a_prompt(name: str) -> None:
    rendering = WHO["safe"].rendering(lambda request, sentence: None)
    rendering.text("r", "stdout", LEFT[name])
    assert rendering.question("x: ") == (PLAIN, NAME + "x: ")
