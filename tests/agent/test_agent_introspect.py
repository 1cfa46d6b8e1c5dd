"""Completion and inspection of the mini shell, on every Python; with jedi where it is there, and without."""

from __future__ import annotations

from typing import Any

from farside import Python
from mini import Answer, ask, plain

SETUP = """
import os, sys, collections
value_one, value_two = 1, [2]
class Thing:
    '''A thing.'''
    attribute_a = 1
    def method_b(self, size, colour='red'):
        '''Does b.'''
    @property
    def property_c(self):
        print('computed')
        raise RuntimeError('never')
    def __dir__(self): return object.__dir__(self) + ['made_up']
thing = Thing()
class Nasty:
    def __getattribute__(self, name): raise KeyboardInterrupt
    def __dir__(self): raise SystemExit
    def __repr__(self): raise ValueError
nasty = Nasty()
def function_d(first, second=2, *rest, key, **more):
    '''What d does.

    At length.'''
    return first
héllo = 5
d = {'key one': 1, "it's": 2, 3: 4, 'sub': {'x': 1}}
thing.inner = d
"""


def complete(code: str, cursor: int | None = None) -> tuple[str, list[Any]]:
    """A completion at ``|``, or at the end."""
    if cursor is None and "|" in code:
        cursor = code.index("|")
        code = code.replace("|", "", 1)
    return "complete", [code, cursor]


def inspect(code: str, detail: int = 0) -> tuple[str, list[Any]]:
    cursor = code.index("|") if "|" in code else len(code)
    return "inspect", [code.replace("|", "", 1), cursor, detail]


def matches(answer: Answer) -> list[str]:
    assert answer.value["status"] == "ok", answer.value
    assert answer.stdout == ""
    found: list[str] = answer.value["matches"]
    return found


def text(answer: Answer) -> str:
    assert answer.value["status"] == "ok"
    return plain(answer.value["data"].get("text/plain", ""))


def test_names_and_attributes(each_python: Python) -> None:
    a = ask(
        each_python, SETUP, complete("value_"), complete("x = thing.att"), complete("thing.inner.ke"),
        complete("whil"), complete("pri"), complete("hé"), complete("'😀😀'; value_|; more"), complete("os.path.joi"),
        complete("collections.OrderedD"), complete("thing."), complete("thing._"), complete("nothing."),
        complete("f().x."), complete("# value_"), complete(""), complete("thing.prop"), complete("value_", 10**6),
    )[1:]  # fmt: skip
    assert matches(a[0]) == ["value_one", "value_two"]
    assert (a[0].value["cursor_start"], a[0].value["cursor_end"]) == (0, 6)
    types = a[0].value["metadata"]["_jupyter_types_experimental"]
    assert [t["text"] for t in types] == matches(a[0])
    assert all(set(t) == {"start", "end", "text", "type", "signature"} for t in types)
    assert matches(a[1]) == ["attribute_a"]
    assert a[1].value["cursor_start"] == 10
    assert "keys" in matches(a[2])
    assert "while" in matches(a[3])
    assert "print" in matches(a[4])
    assert matches(a[5]) == ["héllo"]
    assert matches(a[6]) == ["value_one", "value_two"]
    assert (a[6].value["cursor_start"], a[6].value["cursor_end"]) == (6, 12)  # code points, not UTF-16 units
    assert matches(a[7]) == ["join"]
    assert matches(a[8]) == ["OrderedDict"]
    assert {"attribute_a", "method_b", "property_c", "inner"} <= set(matches(a[9]))
    assert not [name for name in matches(a[9]) if name.startswith("_")]
    assert "__class__" in matches(a[10])
    assert [matches(a[n]) for n in (11, 12, 13)] == [[], [], []]
    assert {"value_one", "function_d"} <= set(matches(a[14]))
    assert matches(a[15]) == ["property_c"]
    assert matches(a[16]) == ["value_one", "value_two"]


def test_types_and_objects_that_raise(each_python: Python) -> None:
    a = ask(
        each_python, SETUP, complete("Thin"), complete("function_"), complete("coll"), complete("nasty."),
        complete("nasty.x.y"), complete("nas"), inspect("nasty"), inspect("nasty.x"), inspect("thing.property_c"),
    )[1:]  # fmt: skip
    kinds = [a[n].value["metadata"]["_jupyter_types_experimental"][0]["type"] for n in range(3)]
    assert kinds == ["class", "function", "module"]
    assert matches(a[3]) == matches(a[4]) == []
    assert matches(a[5]) == ["nasty"]
    assert a[6].value["status"] == "ok"
    assert [a[n].value["found"] for n in (7, 8)] == [False, False]


def test_keys_modules_arguments_files(each_python: Python, tmp_path: Any) -> None:
    (tmp_path / "a file.txt").write_text("")
    (tmp_path / "a folder").mkdir()
    a = ask(
        each_python, SETUP, complete('d["'), complete('d["ke|"]'), complete("d["), complete("d['it"),
        complete("thing.inner['su"), complete("import js"), complete("from os imp"),
        complete("from os.path import joi"),
        complete("import xml.do"), complete("from xml import sa"), complete("function_d(fi"),
        complete(f"open('{tmp_path}/a f"),
        complete("print('a value_"), complete("x = f'{value_"), complete("%tim"), complete("%%ba"),
        complete("x = 5 %ti"),
    )[1:]  # fmt: skip
    assert set(matches(a[0])) == {'key one"]', "it's\"]", 'sub"]'}
    assert matches(a[1]) == ["key one"]
    assert {"'key one']", "3]"} <= set(matches(a[2]))
    assert matches(a[3]) == ["it\\'s']"]
    assert matches(a[4]) == ["sub']"]
    assert "json" in matches(a[5])
    assert a[5].value["cursor_start"] == 7
    assert "import" in matches(a[6])
    assert "join" in matches(a[7])
    assert "dom" in [name.rpartition(".")[2] for name in matches(a[8])]
    assert "sax" in matches(a[9])
    assert "first=" in matches(a[10])
    assert [name.rstrip("/") for name in matches(a[11])] == ["a file.txt", "a folder"]
    assert matches(a[12]) == []
    assert matches(a[13]) == ["value_one", "value_two"]
    assert {"%time", "%timeit"} <= set(matches(a[14]))
    assert matches(a[15]) == ["%%bash"]
    assert not [name for name in matches(a[16]) if name.startswith("%")]


def test_inspection(each_python: Python) -> None:
    a = ask(
        each_python, SETUP, inspect("function_d"), inspect("function_d(1, |)"), inspect("print(function_d(thing.|"),
        inspect("thing.meth|od_b"), inspect("Thing"), inspect("value_two"), inspect("function_d", 1),
        inspect("Thing", 1),
        inspect("nothing"), inspect(""), inspect("len"), inspect("x = 'é😀'; function_d|"), inspect("%time"),
        ("inspect", ["function_d", 5, 0, ["Docstring"]]), inspect("os"), inspect("def f(:\n  function_d(|"),
        inspect("héllo"), inspect("(" * 300 + "value_two"),
    )[1:]  # fmt: skip
    assert text(a[0]).startswith("Signature: function_d(first, second=2, *rest, key, **more)\nDocstring:\nWhat d does.")
    assert "Type:      function" in text(a[0])
    assert "File:      " in text(a[0])
    assert a[0].value["data"]["text/plain"].startswith("\x1b[31mSignature:\x1b[39m")
    assert text(a[1]) == text(a[0])
    assert a[2].value["found"]
    assert "Does b." in text(a[3])
    assert "Init signature: Thing()" in text(a[4])
    assert "A thing." in text(a[4])
    lines = text(a[5]).split("\n")
    assert lines[:3] == ["Type:        list", "String form: [2]", "Length:      1"]
    assert "    return first" in text(a[6])
    assert "def method_b(self, size, colour='red'):" in text(a[7])
    assert "value_one" not in text(a[7])
    assert [a[n].value["found"] for n in (8, 9)] == [False, False]
    assert text(a[10]).startswith("Signature: len(obj, /)\nDocstring: Return the number of items in a container.")
    assert text(a[11]) == text(a[0])
    assert "Time one statement" in text(a[12])
    assert a[13].value["found"]
    assert "What d does" not in text(a[13])
    assert "Type:        module" in text(a[14])
    assert "What d does" in text(a[15])
    assert "String form: 5" in text(a[16])
    assert a[17].value["status"] == "ok"
