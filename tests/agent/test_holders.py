"""Who holds an object, as the agent finds it on every Python; none of the user's code runs, nothing of ours shows."""

from __future__ import annotations

import json
from typing import Any

from farside import Python
from mini import ask

SETUP = """
import collections, importlib, json, sys, threading
holders = importlib.import_module("flame_agent_test.profile.holders")
class Box(object): pass
class Slot(object):
    __slots__ = ("one",)
class Nasty(object):
    def ran(self, *args): sys.exit("the user's code ran")
    __class__ = __repr__ = __eq__ = __len__ = __iter__ = __sizeof__ = __getattr__ = property(ran)
    def __hash__(self): return 1
held = [bytearray(100)]
box = Box(); box.inner = held; box.me = box
slot = Slot(); slot.one = held
nasty = Nasty(); nasty.one = held
table = {"k": held}
ordered = collections.OrderedDict(a=held)
row = (0, held)
def outer():
    free = held
    def inner(x=1, y=held, *, z=held): return free
    return inner
inner = outer()
def feed():
    batch = held
    yield batch
job = feed(); next(job)
class Kind: one = held
go, up = threading.Event(), threading.Event()
def run():
    mine = held
    up.set()
    go.wait()
thread = threading.Thread(target=run); thread.start(); up.wait()
holders.HOLDERS = 30
def search(value):
    found = []
    work = threading.Thread(target=lambda: found.append(holders.Search(globals()).graph(value)))
    work.start(); work.join()
    return found[0]
"""


def searched(python: Python, expression: str) -> tuple[list[list[Any]], set[tuple[str, str, str, str]], str]:
    """The objects; who holds whom, by name; the note."""
    *_, answer = ask(python, SETUP, f"graph = search({expression}); go.set(); thread.join(); print(json.dumps(graph))")
    assert answer.status == "ok", answer.value
    graph = json.loads(answer.stdout)
    names = [node[1] for node in graph["nodes"]]
    return (
        graph["nodes"],
        {(names[holder], names[one], how, name) for holder, one, how, name in graph["edges"]},
        graph["note"],
    )


def test_all_that_can_hold(each_python: Python) -> None:
    if each_python.implementation == "pypy":
        return  # it has no tracemalloc, and `Memory` says so
    nodes, edges, note = searched(each_python, "held")
    me, space = "list of 1", "flame_session_ab12"
    assert nodes[0][:2] == ["container", me]
    assert [kind for kind, name, _, _ in nodes if name == space] == ["module"]  # drawn once
    space_of = [one for one in edges if one[0] == space]
    assert {name for _, _, how, name in space_of if how == "global"} >= {"held", "box", "slot", "table", "row", "inner"}
    expected = {
        (f"{space}.Box", me, "attribute", "inner"),
        (f"{space}.Box", f"{space}.Box", "attribute", "me"),
        (f"{space}.Slot", me, "attribute", "one"),
        (f"{space}.Nasty", me, "attribute", "one"),
        (f"{space}.Kind", me, "attribute", "one"),
        ("dict of 1", me, "key", "'k'"),
        ("tuple of 2", me, "index", "1"),
        ("function outer.<locals>.inner", me, "default", "y"),
        ("function outer.<locals>.inner", me, "default", "z"),
        ("function outer.<locals>.inner", "cell", "closure", "free"),
    }
    assert expected <= edges, expected - edges
    assert {(how, name) for holder, _, how, name in edges if holder.endswith("OrderedDict of 1")} == {("key", "'a'")}
    # Python tells the names of variables from 3.12 on; from 3.7 to 3.11 not even which function that runs has them.
    named = each_python.version >= (3, 12)
    assert ("generator feed", me, "local", "batch" if named else "") in edges
    running = {name for holder, _, how, name in edges if holder.startswith("run, ") and how == "local"}
    is_blind = (3, 7) <= each_python.version < (3, 12)
    assert running == (set() if is_blind else {"mine"} if named else {""})
    assert ("variables of running functions are not seen" in note) is is_blind
    # Nothing of ours is among them.
    assert not [name for _, name, _, _ in nodes if "flame_agent" in name or "Search" in name], nodes


def test_a_search_is_bounded_and_leaves_nothing(oldest_python: Python) -> None:
    setup = "many = [[held] for _ in range(500)]\nholders.HOLDERS, holders.OBJECTS = 6, 20\nimport gc, weakref\n"
    chain = "deep = box\nfor _ in range(20): deep = [deep]\n"
    code = (
        "graph = search(held); far = search(box); gc.collect(); gc.disable()\n"
        "other = Box(); other.inner = [0]; pair = [other, [other.inner]]; seen = weakref.ref(other)\n"
        "search(other.inner); search(other); del other, pair\ngo.set(); thread.join()\n"
        "print(json.dumps([graph, far, seen() is None]))"
    )
    *_, answer = ask(oldest_python, SETUP, setup + chain, code)
    assert answer.status == "ok", answer.value
    graph, far, is_gone = json.loads(answer.stdout)
    assert is_gone  # at once, and not only when the collector comes
    assert graph["nodes"][0][3] == "more"
    assert len(graph["nodes"]) <= 20
    assert "far" in {node[3] for node in far["nodes"]}
