"""The table of ``%flame`` commands: how lines are read by it, in both faces, and what is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flame_kernel.commands import help
from flame_kernel.commands.far_path import get_paths, put_paths, sync_paths
from flame_kernel.commands.language import BY_NAME, CELL, COMMANDS, commands
from flame_kernel.commands.options import FACES, KERNEL, MAGICS
from flame_kernel.commands.parsing import find, overtakes, parse, parse_cell, words_of
from flame_kernel.commands.tab import command_at, rest_of, wanted, wanted_of_cell
from flame_kernel.connect.keys import has_key, without_key
from flame_kernel.errors import FlameError, TargetError

REFERENCE = Path(__file__).parents[2] / "notebooks" / "REFERENCE.md"


def given(text: str, face: str = MAGICS) -> dict[str, Any]:
    """What a line says: its command, and the values that are not empty."""
    line = parse(text, face)
    return {"": line.name, **{name: value for name, value in line.values.items() if value not in (None, False, [])}}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {"": "status"}),
        ("put a b c/", {"": "put", "source": ["a", "b"], "destination": "c/"}),
        ("put 'a b' c\\ d", {"": "put", "source": ["a b"], "destination": "c d"}),
        ("put C:\\data\\x x", {"": "put", "source": ["C:\\data\\x"], "destination": "x"}),
        ("get a", {"": "get", "source": ["a"]}),
        ("get a b", {"": "get", "source": ["a"], "destination": "b"}),
        ("get -tpi -- -a b c", {"": "get", "target": "pi", "source": ["-a", "b"], "destination": "c"}),
        ("sync a :b --exclude x --exclude=y -n", {"": "sync", "source": "a", "destination": ":b", "exclude": ["x", "y"]}
         | {"dry_run": True}),
        ("eval -t pi  -x if a else 'b  c'", {"": "eval", "target": "pi", "code": "-x if a else 'b  c'"}),
        ("eval --target='my pi' x", {"": "eval", "target": "my pi", "code": "x"}),
        ("eval -- -t", {"": "eval", "code": "-t"}),
        ("watch --every 1 d['a  b']", {"": "watch", "every": 1.0, "code": "d['a  b']"}),
        ("watch x --end", {"": "watch", "every": 2.0, "end": True, "code": "x"}),
        ("where --all --every=90s", {"": "where", "every": 90.0, "all": True}),
        ("module numpy as rnp", {"": "module", "name": "numpy", "alias": ["as", "rnp"]}),
        ("connect h:1 --timeout 2 --tls", {"": "connect", "where": "h:1", "timeout": 2.0, "tls": True}),
        ("add h:1 --as pi", {"": "connect", "where": "h:1", "as": "pi"}),
        ("replay -1", {"": "replay", "count": -1}),
        ("connect?", {"": "help", "name": "connect"}),
        ("?", {"": "help"}),
        ("put --help", {"": "help", "name": "put"}),
        ("eval --help", {"": "help", "name": "eval"}),
        ("eval -h - 1", {"": "eval", "code": "-h - 1"}),
        ("eval x?", {"": "eval", "code": "x?"}),
    ],
)  # fmt: skip
def test_a_line_is_read(text: str, values: dict[str, Any]) -> None:
    assert given(text) == values


# What an option has as its value where not any will do.
VALUES = {"key": "prompt"}


@pytest.mark.parametrize("face", FACES)
def test_what_is_written_in_the_help_can_be_typed(face: str) -> None:
    for command in commands(face):
        for example in command.examples:
            assert parse(example.partition("%flame")[2], face).name in (command.name, "help")
        for option in command.options_in(face):
            for flag in option.flags:
                words = [
                    command.name,
                    flag,
                    *(
                        [option.choices[0] if option.choices else VALUES.get(option.name, "1")]
                        if option.metavar
                        else []
                    ),
                ]
                words += ["x"] * (command.name == "watch")
                words += ["x"] * sum(argument.count in ("one", "some") for argument in command.arguments_in(face))
                assert parse(" ".join(words), face)[option.name] not in (None, False, [])
    for example in CELL.examples:
        assert parse_cell(example.removeprefix("%%flame"), MAGICS).values


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("conect", "there is no %flame conect; did you mean %flame connect?"),
        ("bogus", "there is no %flame bogus; %flame help lists the commands"),
        ("connect a b", "%flame connect does not take 'b': %flame connect [WHERE] [options]"),
        ("allow me", "%flame allow takes no arguments, so not 'me'"),
        ("put a", "%flame put needs SRC and DST: %flame put SRC… DST [options]"),
        ("connect --plac child", "%flame connect has no option --plac; did you mean --place?"),
        ("eval --targt pi x", "%flame eval has no option --targt; did you mean --target?"),
        ("top --all-of-it", "%flame top has no option --all-of-it; %flame help top lists its options"),
        ("allow --x", "%flame allow has no option --x; it takes none"),
        ("connect --place moon", "--place is one of auto, process, child, main, not 'moon'"),
        ("connect --shell ipythn", "--shell is one of auto, ipython, mini, not 'ipythn'; did you mean ipython?"),
        ("connect --key-file", "--key-file needs a value: --key-file FILE"),
        ("connect --key-file --tls", "--key-file needs a value: --key-file FILE"),
        ("connect --tls=yes", "--tls takes no value"),
        ("connect --timeout soon", "--timeout is a number, not 'soon'"),
        ("attach x --ask --force", "--ask and --force exclude each other; give one"),
        ("replay x", "N is a whole number, not 'x'"),
        ("replay --missed", "%flame replay --missed is for the Remote Flame kernel"),
        ("where --every 0", "--every is at least 0.2 s; not '0'"),
        ("put 'a b", "the quotation is not closed: add ' at its end"),
        ("eval", "%flame eval needs EXPRESSION: %flame eval EXPRESSION… [options]"),
        ("x" * 500, "there is no %flame " + "x" * 59 + "…; %flame help lists the commands"),
    ],
)
def test_what_is_wrong_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FlameError) as caught:
        parse(text, MAGICS)
    assert str(caught.value) == sentence


def test_where_a_command_makes_no_sense_it_says_what_to_do() -> None:
    for command in COMMANDS:
        for face in set(FACES) - set(command.faces):
            with pytest.raises(FlameError) as caught:
                parse(f"{command.name} 6 * 7", face)
            assert str(caught.value) == command.instead[face].format(rest="6 * 7")
            assert f"%flame {command.name} " not in help.overview(face)


@pytest.mark.parametrize("face", FACES)
def test_the_help_fits_a_notebook(face: str) -> None:
    pages = [help.overview(face), *(help.about(command, face) for command in commands(face))]
    assert max(len(line) for page in pages for line in page.splitlines()) <= help.WIDTH
    for command in commands(face):
        assert f"%flame {command.name} " in pages[0]
        page = help.about(command, face)
        assert all(flag in page for option in command.options_in(face) for flag in option.flags)
        assert find(command.name, face) is command


def test_the_reference_page_has_the_table() -> None:
    _, begin, rest = REFERENCE.read_text("utf-8").partition("<!-- commands: begin -->\n")
    table, end, _ = rest.partition("\n<!-- commands: end -->")
    assert begin
    assert end
    assert table == help.reference_table(), f"python -m flame_kernel.commands.help prints:\n{help.reference_table()}"


def test_orders_that_only_look() -> None:
    looks = [name for name, command in BY_NAME.items() if command.passes]
    others = {"forward", "forwards"}  # beside the cells
    assert {
        "where",
        "watch",
        "top",
        "audit",
        "memory",
        "profile",
        "status",
        "info",
        "sessions",
        "help",
        "allow",
        "refuse",
        "replay",
    } | others == set(looks)
    assert all(overtakes(f"%flame {name} x") for name in looks)
    assert overtakes("%flame")
    assert overtakes("%flame where\n\n%flame connect?")
    assert overtakes("# what is it doing?\n%flame where")
    assert not overtakes("# nothing")
    assert overtakes("%flame wher")  # there is none: that is said at once
    assert not any(overtakes(code) for code in ("", "%flame where\nx", "%flame connect h:1", "%flame put a b", "where"))


# -- words that are not for the far side -----------------------------------------------------------------------------


def test_words() -> None:
    assert words_of(r"a 'b c' \"d 'e'\" f\ g \\h \\\\i 'j\'k'".replace('\\"', '"')) == [
        "a", "b c", "d 'e'", "f g", r"\\h", r"\\\\i", "j'k",
    ]  # fmt: skip
    assert words_of("''") == [""]
    for text in ("'a", 'x "b', "'it''s"):
        with pytest.raises(FlameError, match="not closed"):
            words_of(text)


def test_a_key_in_a_line_is_hidden_and_its_place_is_not() -> None:
    for line in ("%flame connect h:1 --key secret", "%flame connect --key='se cret' h:1", 'x\n%flame add --key "s"'):
        assert has_key(line)
        assert "se" not in without_key(line)
        assert "--key" in without_key(line)
    for line in ("%flame connect --key prompt", "%flame connect --key=env:LAB h:1", "--key keyring:x", "--key-file f"):
        assert not has_key(line)
        assert without_key(line) == line


# -- TARGET:PATH -----------------------------------------------------------------------------------------------------


def is_lab(name: str) -> bool:
    return name in ("lab", "pi")


def test_a_path_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert put_paths(["x"], "lab:y", is_lab) == ("lab", "y")
    assert put_paths(["x"], ":y:z", is_lab) == (None, "y:z")
    assert put_paths(["x"], "y", is_lab, "pi") == ("pi", "y")
    assert put_paths(["x"], "./lab:y", is_lab) == (None, "./lab:y")
    assert put_paths(["x"], "/a/lab:y", is_lab) == (None, "/a/lab:y")
    assert put_paths(["C:\\x"], "D:\\y", is_lab) == (None, "D:\\y")
    assert get_paths(["lab:x", "lab:/y"], ".", is_lab) == ("lab", ["x", "/y"])
    assert get_paths(["x", "y"], ".", is_lab) == (None, ["x", "y"])
    assert sync_paths("a", "lab:b", is_lab) == ("lab", None, "b")
    assert sync_paths(":a", "b", is_lab, "lab") == ("lab", "a", None)
    # A file that is there, with a colon in its name, is that.
    Path("12:30.csv").touch()
    assert put_paths(["12:30.csv"], "lab:y", is_lab) == ("lab", "y")
    assert sync_paths("12:30.csv", "lab:y", is_lab) == ("lab", None, "y")


@pytest.mark.parametrize(
    ("paths", "words", "sentence"),
    [
        (put_paths, (["x"], "typo:y"), "there is no target 'typo': .* write ./typo:y for a file of this name"),
        (put_paths, (["x"], "localhost:9999/y"), "there is no target 'localhost'"),
        (put_paths, (["x"], "ssh://me@far/9999"), "a server that has no name here: give the server with -t, as ssh://"),
        (put_paths, (["x"], "me@far:y"), "'me@far:y' names a server that has no name here"),
        (put_paths, (["x"], "two words:y"), "there is no target 'two words'"),
        (put_paths, (["lab:x"], "y"), "'lab:x' is a path of the far side: put copies from this machine"),
        (put_paths, (["typo:x"], "y"), "there is no target 'typo'"),
        (put_paths, (["x"], "lab:"), "'lab:' names nothing there"),
        (get_paths, (["typo:x"], "."), "there is no target 'typo'"),
        (get_paths, (["x"], "lab:y"), "'lab:y' is a path of the far side: get copies to this machine"),
        (get_paths, (["x"], "typo:y"), "there is no target 'typo'"),
        (get_paths, (["lab:x", "pi:y"], "."), "lab and pi are two servers; name one"),
        (get_paths, (["lab:x", "y"], "."), "some of the paths name a server and some do not"),
        (sync_paths, ("a", "b"), "neither path is on the server"),
        (sync_paths, (":a", "lab:b"), "both paths are on the server"),
        (sync_paths, ("a", "typo:b"), "there is no target 'typo'"),
    ],
)
def test_what_is_no_path_of_a_server(paths: Any, words: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        paths(*words, is_lab)
    with pytest.raises(TargetError, match="lab and pi are two servers"):
        put_paths(["x"], "lab:y", is_lab, "pi")


# -- Tab -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "word", "kinds", "words"),
    [
        ("con", "con", (), {"connect", "use", "help"}),
        ("connect ", "", ("connection", "target"), set()),
        ("connect h:1 --pl", "--pl", (), {"--place", "--tls", "--as"}),
        ("connect --place ch", "ch", (), {"child"}),
        ("connect --place=ch", "ch", (), {"child"}),
        ("connect --key-file ~/k", "~/k", ("here",), set()),
        ("put a", "a", ("here",), set()),
        ("put a b", "b", ("there", "here"), set()),
        ("put -t pi a", "a", ("here",), set()),
        ("put a b c", "c", ("there", "here"), set()),
        ("get x", "x", ("there",), set()),
        ("attach ", "", ("session",), set()),
        ("sessions --kill n", "n", ("session",), set()),
        ("eval -t p", "p", ("connection",), set()),
        ("push --tar", "--tar", (), {"--target"}),
        ("eval --tar", "--tar", (), {"--target"}),
        ("watch x --ev", "--ev", (), {"--every"}),
        ("eval x -y", "x -y", ("code",), set()),
        ("eval x + y.z", "x + y.z", ("code",), set()),
        ("watch a.b", "a.b", ("code",), set()),
        ("pull a b", "b", ("code",), set()),
        ("run sc", "sc", ("here",), set()),
        ("push na", "na", ("name",), set()),
        ("push a=na", "", (), set()),
        ("help ev", "ev", (), {"eval"}),
        ("module te", "te", ("module",), set()),
        ("nosuch x", "", (), set()),
    ],
)
def test_what_tab_wants(rest: str, word: str, kinds: tuple[str, ...], words: set[str]) -> None:
    found = wanted(rest, MAGICS)
    assert (found.word, found.kinds) == (word, kinds)
    assert words <= set(found.words)


def test_what_tab_wants_of_a_face() -> None:
    assert "eval" not in wanted("ev", KERNEL).words
    assert wanted("eval x", KERNEL).kinds == ()
    assert "--as" not in wanted("connect -", KERNEL).words
    assert wanted("allow --", KERNEL).words == ("--help", "-h")
    with pytest.raises(FlameError, match=r"did you mean %flame module\?"):  # it tells what to do here instead
        parse("modul os", KERNEL)
    assert wanted("eval --target pi x.", MAGICS).target == "pi"
    assert "--no-raise-error" in wanted_of_cell("--no", MAGICS).words
    assert wanted_of_cell("-i a", MAGICS).kinds == ("name",)


def test_which_lines_are_ours() -> None:
    assert rest_of("%flame con") == "con"
    assert rest_of("x, y = %flame eval a") == "eval a"
    assert rest_of("%flame") is None
    assert rest_of("%flamex con") is None
    assert rest_of("print('%flame con')") is None
    assert command_at("%flame connect x", 3) == ""
    assert command_at("%flame connect x", 9) == "connect"
    assert command_at("  x = %flame eval y", 16) == "eval"
    assert command_at("y = 1", 2) is None
