"""What a front end gets to see of a server that nobody vouches for, piece by piece."""

from __future__ import annotations

import base64
import contextlib
import random
import re
import struct
import time
from typing import Any

import pytest
from shown import ADVICE, HINT, PLACE, SVG, Shown, chunk, jpeg, png

from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.security import pictures
from flame_kernel.security.pictures import NoPicture
from flame_kernel.terminal import HELD, Cleaner, clean


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- terminals

HARMFUL = {
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "clipboard-st": "\x1b]52;c;ZXZpbA==\x1b\\",
    "title": "\x1b]0;evil\x07",
    "link": "\x1b]8;;file:///etc/passwd\x1b\\",
    "clear": "\x1b[2J\x1b[H",
    "up": "\x1b[5A",
    "private": "\x1b[?1049h",
    "report": "\x1b[6n\x1b[>c",
    "paste": "\x1b[200~",
    "device": "\x1bP$qm\x1b\\",
    "screen-title": "\x1bkevil\x1b\\",
    "apc": "\x1b_Gf=100;AAAA\x1b\\",
    "reset": "\x1bc",
    "charset": "\x1b(0\x0e",
    "eight-bit": "\x9b2J\x9d52;c;ZXZpbA==\x9c\x90q\x9c",
    "bell": "\x07\x00\x05\x7f\x0b\x0c",
    "sgr-like": "\x1b[>4;2m\x1b[?1m\x1b[1 m",
}
COLOURED = "\x1b[0;31mred\x1b[38;2;1;2;3mtrue\x1b[4:3mcurly\x1b[m"


@pytest.mark.parametrize("name", HARMFUL)
def test_a_terminal_gets_no_orders(name: str) -> None:
    assert clean(f"before{HARMFUL[name]}after") == "beforeafter"
    cleaner = Cleaner()
    assert cleaner.feed(f"{COLOURED}{HARMFUL[name]}") == COLOURED
    assert cleaner.removed > 0


def test_colours_and_progress_bars_stay() -> None:
    bar = "".join(f"\r{n:3}% \x1b[32m{'#' * n}\x1b[0m\b" for n in range(100)) + "\tdone\n"
    for text in (bar, COLOURED, "ä€😀\ud800", "", "x" * 100_000):
        cleaner = Cleaner()
        assert cleaner.feed(text) == text
        assert cleaner.removed == 0


def test_a_sequence_may_come_in_pieces() -> None:
    text = "a".join([COLOURED, *HARMFUL.values(), "end\n"])
    whole = clean(text)
    assert re.sub(r"\x1b\[[0-9;:]*m", "", whole).isprintable() or "\n" in whole
    for cut in range(len(text)):
        cleaner = Cleaner()
        assert cleaner.feed(text[:cut]) + cleaner.feed(text[cut:]) == whole
    cleaner = Cleaner()
    assert "".join(map(cleaner.feed, text)) == whole


def test_nothing_but_colours_is_left_of_anything() -> None:
    """20,000 random texts (seed 7), in random pieces."""
    chance = random.Random(7)
    pieces = [
        "\x1b",
        "[",
        "]",
        "52;c;",
        "P",
        "\\",
        "m",
        "31",
        ";",
        "\x07",
        "\x9b",
        "\x9d",
        "\x9c",
        "\x18",
        "\n",
        "a",
        "?",
        " ",
    ]
    for _ in range(20_000):
        cleaner = Cleaner()
        out = ""
        for _ in range(chance.randint(1, 4)):
            out += cleaner.feed("".join(chance.choices(pieces, k=chance.randint(0, 12))))
        left = re.sub(r"\x1b\[[0-9;:]*m", "", out)
        assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", left.replace("\r", "").replace("\b", "")) is None, out


def test_a_sequence_without_an_end_is_text_in_the_end() -> None:
    cleaner = Cleaner()
    assert cleaner.feed("\x1b]0;") == ""
    assert cleaner.feed("x" * HELD).endswith("x" * 100)
    assert cleaner.feed("next\n") == "next\n"
    assert clean("\x1b]0;title without an end\nnext line") == "\nnext line"


def test_cleaning_costs_little() -> None:
    """Text without controls passes by a look at it: 20 MB of lines."""
    text = "a line of output like many others\n" * 600_000
    began = time.monotonic()
    assert Cleaner().feed(text) is text
    assert time.monotonic() - began < 10  # measured 0.03


# --- pictures


def test_pictures_pass() -> None:
    pictures.check("image/png", b64(png(more=chunk(b"tEXt", b"Software\0matplotlib"))))
    pictures.check("image/png", base64.encodebytes(png()).decode())
    pictures.check("image/jpeg", b64(jpeg(4000, 3000)))
    with pytest.raises(NoPicture):
        pictures.check("image/jpeg", b64(png()))


@pytest.mark.parametrize(
    ("mime", "value"),
    {
        "svg": ("image/png", b64(SVG)),
        "html": ("image/jpeg", b64(b"<html><script>")),
        "no-base64": ("image/png", "'><script>alert(1)</script>"),
        "list": ("image/png", [b64(png())]),
        "trailing": ("image/png", b64(png() + SVG)),
        "cut": ("image/png", b64(png()[:-5])),
        "checksum": ("image/png", b64(png().replace(b"IDAT", b"IDAU"))),
        "no-pixels": ("image/png", b64(png()[:33] + chunk(b"IEND", b""))),
        "two-headers": ("image/png", b64(png(more=chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))))),
        "wide": ("image/png", b64(png(2**31, 1))),
        "bomb": ("image/png", b64(png(30_000, 30_000))),
        "no-size": ("image/png", b64(png(0, 0))),
        "huge": ("image/png", "A" * 100_000_000),
        "jpeg-bomb": ("image/jpeg", b64(jpeg(65_000, 65_000))),
        "jpeg-cut": ("image/jpeg", b64(jpeg()[:-2])),
        "jpeg-trailing": ("image/jpeg", b64(jpeg() + SVG)),
        "jpeg-empty": ("image/jpeg", b64(b"\xff\xd8\xff\xd9")),
        "jpeg-no-size": ("image/jpeg", b64(b"\xff\xd8\xff\xda\x00\x02\xff\xd9")),
        "jpeg-segment": ("image/jpeg", b64(b"\xff\xd8\xff\xe0\xff\xff\xff\xd9")),
    }.values(),
)
def test_what_is_no_picture_is_refused(mime: str, value: Any) -> None:
    began = time.monotonic()
    with pytest.raises(NoPicture):
        pictures.check(mime, value)
    assert time.monotonic() - began < 30


def test_damaged_pictures_raise_nothing_else() -> None:
    chance = random.Random(8)
    for mime, whole in (("image/png", png()), ("image/jpeg", jpeg())):
        for _ in range(5_000):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with contextlib.suppress(NoPicture):
                pictures.check(mime, b64(bytes(data[: chance.randint(0, len(data))])))


# --- what is shown


def test_who_is_shown_in_full() -> None:
    for target, level in (
        (Target(PLACE), "safe"),
        (Target(Location("127.0.0.1", 9999)), "safe"),
        (Target(Location(path="/run/flame.sock")), "safe"),
        (Target(PLACE, Secret(b"k" * 32)), "full"),
        (Target(PLACE, trust=True), "full"),
        (Target(PLACE, own=True), "full"),
    ):
        assert target.rendering_level == level


def test_in_full_all_is_as_it_came() -> None:
    shown = Shown(Target(PLACE, trust=True))
    event = {"type": "comm_open", "request": None, "content": {"target_name": "jupyter.widget"}, "buffers": [b"x"]}
    assert shown.rendering.event(event) is event
    reply = {"status": "ok", "payload": [{"source": "set_next_input", "text": "x"}]}
    assert shown.rendering.reply("cell", reply) is reply
    assert shown.rendering.text("cell", "stdout", "\x1b[2J") == "\x1b[2J"
    assert shown.said == []


def test_rich_output_is_withheld_and_said_once_a_session() -> None:
    shown = Shown()
    image = b64(png())
    for _ in range(3):
        data = shown.event(
            "display_data",
            data={
                "text/plain": "\x1b[31mtext\x1b[0m\x1b]0;evil\x07",
                "text/html": "<script>alert(1)</script>",
                "application/javascript": "alert(1)",
                "image/svg+xml": SVG.decode(),
                "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                "image/png": image,
                "image/jpeg": image,
                "<script>": "x",
            },
            metadata={"image/png": {"width": 20, "height": "evil", "style": "x"}, "isolated": True},
            transient={},
        )
        assert data == {
            "type": "display_data",
            "request": "cell",
            "content": {
                "data": {"text/plain": "\x1b[31mtext\x1b[0m", "image/png": image},
                "metadata": {"image/png": {"width": 20}},
                "transient": {},
            },
        }
    assert [sentence for _, sentence in shown.said] == [
        "terminal control sequences " + ADVICE,
        "image/jpeg not shown: it is not a JPEG",
        f"{HINT}%flame connect with --key-file, ssh:// or --rich",
    ]
    # A cell that would look empty says why; one whose text is shown does not.
    assert shown.display("next", text_html="<b>") is None
    assert shown.said[-1] == ("next", "text/html " + ADVICE)
    told = len(shown.said)
    assert shown.display("third", text_html="<b>", text_plain="b") == {"text/plain": "b"}
    assert len(shown.said) == told


def test_rich_output_without_pickles() -> None:
    """By the user's word; nothing else than what is shown is changed by it."""
    target = Target(PLACE, rich=True)
    shown = Shown(target)
    assert shown.display(text_html="<b>") == {"text/html": "<b>"}
    assert shown.said == []
    assert not target.trust
    assert not target.is_authenticated


def test_nobody_is_told_of_rich_output_where_there_could_be_none() -> None:
    said: list[str] = []
    rendering = Target(PLACE).rendering(lambda request, sentence: said.append(sentence))
    rendering.event(
        {"type": "display_data", "request": "cell", "content": {"data": {"text/html": "x", "text/plain": "x"}}}
    )
    assert said == []


def test_what_is_said_is_bounded() -> None:
    shown = Shown()
    for number in range(1000):
        shown.display(**{f"text_x{number}": "x"})
    assert len(shown.said) == 10  # with the one about rich output
    assert shown.said[-1][1].startswith("and more not shown")
    for number in range(2000):
        shown.display(f"cell {number}", text_html="x")
    assert len(shown.rendering._said) <= 501


def test_a_text_of_100_mb_is_withheld() -> None:
    shown = Shown()
    assert shown.display(text_plain="x" * 100_000_000) is None
    assert "more than 32 million characters" in shown.said[0][1]


def test_displays_of_others_are_not_changed() -> None:
    shown = Shown()
    update = {"data": {"text/plain": "forged"}, "transient": {"display_id": "theirs"}}
    assert shown.event("update_display_data", **update) is None
    assert "a change of a display that is not its own" in shown.said[0][1]
    made = shown.event("display_data", **update)
    assert made is not None
    changed = shown.event("update_display_data", "later cell", **update)
    assert changed is not None
    # A front end takes a display of a known id for a change of that one: so ours are of another name than theirs.
    assert made["content"]["transient"] == changed["content"]["transient"] == {"display_id": f"{PLACE}/theirs"}
    for odd in (None, 5, ["x"], "x" * 1000):
        odd_one = shown.event("display_data", data={"text/plain": "x"}, transient={"display_id": odd})
        assert odd_one is not None
        assert odd_one["content"]["transient"] == {}
    for number in range(20_000):
        shown.now += 1
        shown.event("display_data", data={"text/plain": "x"}, transient={"display_id": str(number)})
    assert len(shown.rendering._displays) == 10_000


def test_a_million_comm_messages_are_dropped_quickly() -> None:
    shown = Shown()
    event = {"type": "comm_msg", "request": "cell", "content": {"comm_id": "x", "data": {}}}
    began = time.monotonic()
    for _ in range(1_000_000):
        assert shown.rendering.event(event) is None
    assert time.monotonic() - began < 10  # measured 1.0
    assert [(request, sentence[: len(HINT)]) for request, sentence in shown.said] == [("cell", HINT)]


def test_messages_are_as_many_as_a_front_end_takes() -> None:
    shown = Shown()
    passed = sum(shown.display(text_plain="x") is not None for _ in range(10_000))
    assert passed == 3000
    shown.now += 1.0
    assert sum(shown.display(text_plain="x") is not None for _ in range(10_000)) == 1000
    assert shown.said == [("cell", "output beyond 1000 messages a second not shown")]


def test_payloads_change_no_notebook() -> None:
    shown = Shown()
    reply = shown.rendering.reply(
        "cell",
        {
            "status": "ok",
            "execution_count": 3,
            "payload": [
                {"source": "set_next_input", "text": "import os; os.system('rm -rf ~')", "replace": True},
                {"source": "edit_magic", "filename": "/etc/passwd"},
                {"source": "ask_exit", "keepkernel": "x", "more": "y"},
                {"source": ["x"]},
                "odd",
                {"source": "page", "data": {"text/plain": "help\x1b[2J", "text/html": "<script>"}, "start": "1"},
            ],
            "user_expressions": {
                "a": {"status": "ok", "data": {"text/plain": "1\x07", "text/html": "x"}, "metadata": {"m": 1}},
                "b": {"status": "error", "ename": "E\x1bc", "evalue": "v", "traceback": ["\x1b]0;t\x07"]},
                "c": 5,
            },
        },
    )
    assert reply == {
        "status": "ok",
        "execution_count": 3,
        "payload": [
            {"source": "ask_exit", "keepkernel": False},
            {"source": "page", "data": {"text/plain": "help"}, "start": 0},
        ],
        "user_expressions": {
            "a": {"status": "ok", "data": {"text/plain": "1"}, "metadata": {}},
            "b": {"status": "error", "ename": "E", "evalue": "v", "traceback": [""]},
        },
    }
    assert ("cell", "a payload (set_next_input) " + ADVICE) in shown.said


def test_an_editors_answers_are_text() -> None:
    shown = Shown()
    types = [{"text": "x\x1b[2J", "type": "function"}]
    answer = {"status": "ok", "matches": ["a\x1b]0;evil\x07b"], "metadata": {"_jupyter_types_experimental": types}}
    assert shown.rendering.reply("", answer) == {
        "status": "ok",
        "matches": ["ab"],
        "metadata": {"_jupyter_types_experimental": [{"text": "x", "type": "function"}]},
    }
    found = {"status": "ok", "found": True, "data": {"text/plain": "doc", "text/html": "<script>"}, "metadata": {}}
    assert shown.rendering.reply("", found)["data"] == {"text/plain": "doc"}
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    shown.rendering.reply("", {"status": "ok", "matches": deep})
    assert shown.said == []  # nobody asked for a sentence in a cell


def test_errors_and_prompts() -> None:
    shown = Shown()
    error = shown.event("error", ename="E\x1b[2J", evalue=5, traceback=["\x1b[31ma\x1b[0m", "\x1b[5Ab", 3], extra="x")
    assert error is not None
    assert error["content"] == {"ename": "E", "evalue": "5", "traceback": ["\x1b[31ma\x1b[0m", "b"]}
    assert shown.event("error", traceback=7) is not None
    assert shown.event("clear_output", wait=1) == {
        "type": "clear_output",
        "request": "cell",
        "content": {"wait": False},
    }
    assert shown.event("clear_output", None, wait=True) is None
    assert shown.rendering.question("Password: \x1b[2J")[1] == "[gpu1.example:9999] Password: "
    assert Shown(Target(PLACE, name="gpu")).rendering.question("> ") == ("", "[gpu] > ")
    assert Shown(Target(PLACE, trust=True)).rendering.question("> ") == ("", "[gpu1.example:9999] > ")
    assert Shown(Target(PLACE, own=True)).rendering.question("> ") == ("", "> ")


def test_streams_are_cleaned_each_for_itself() -> None:
    shown = Shown()
    text = shown.rendering.text
    assert text("cell", "stdout", "a\x1b") == "a"
    assert text("cell", "stderr", "]52;c;x\x07") == "]52;c;x"  # no order without its beginning
    assert text("cell", "stdout", "[31mred") == "\x1b[31mred"
    for number in range(2000):
        text(f"cell {number}", "stdout", "\x1b")
    assert len(shown.rendering._streams) <= 501
