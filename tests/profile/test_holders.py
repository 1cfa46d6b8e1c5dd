"""The picture of who holds an object: words and SVG of a graph, and graphs of a server that lies."""

from __future__ import annotations

import html.parser
import json
import re
from typing import Any

import pytest

from flame_kernel.errors import UnsafeAnswer
from flame_kernel.profile import memory
from flame_kernel.profile.holders import Holders

SCRIPTS = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b]0;title\x07\u202e{0}{}</title></svg>"
NODES: list[list[Any]] = [
    ["container", "list of 3", 88, "more"],
    ["object", "shop.Cart", 48, ""],
    ["container", "dict of 2", 184, ""],
    ["module", "shop", 832, ""],
    ["frame", "work, shop.py:9", 400, ""],
]
EDGES: list[list[Any]] = [
    [1, 0, "attribute", "lines"],
    [2, 1, "key", "'anna'"],
    [1, 2, "attribute", "others"],
    [3, 2, "global", "carts"],
    [3, 0, "global", "last"],
    [4, 0, "local", "mine"],
]


def reply(**changes: Any) -> dict[str, Any]:
    """What an honest agent answers."""
    graph = {"nodes": NODES, "edges": EDGES, "note": ""} | changes
    more: dict[str, Any] = {"tracing": False, "traced": 0, "overhead": 0, "lines": [], "types": [], "objects": 0}
    return {"status": "ok", "pid": 1, "seconds": 0.02, "holders": graph, **more}


def holders(**changes: Any) -> Holders:
    found = memory.shown(memory.HOLDERS, reply(**changes), "pi")
    assert isinstance(found, Holders)
    return found


class Tags(html.parser.HTMLParser):
    """The tags of a page, with their attributes; and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_words_and_picture() -> None:
    found = holders()
    assert str(found).splitlines()[:-1] == [
        "list of 3, 88 bytes",
        "  held by shop.Cart, 48 bytes, as .lines",
        "    held by dict of 2, 184 bytes, under 'anna'",
        "      held by shop.Cart, 48 bytes, as .others (told above)",
        "      held by module shop, as global carts",
        "  held by module shop, as global last",
        "  held by frame of work, shop.py:9, 400 bytes, as variable mine",
        "  [others hold it too]",
    ]
    assert repr(found) == str(found)  # at a prompt
    assert found._repr_mimebundle_() == {"text/plain": str(found), "text/html": found.page()}
    assert [node.name for node in found.nodes] == [node[1] for node in NODES]
    assert (found.edges[3].holder, found.edges[3].held, found.edges[3].words(True)) == (3, 2, "carts")
    tags = Tags(found.page()).found
    boxes = [
        (float(one["x"] or 0), float(one["y"] or 0), float(one["height"] or 0)) for tag, one in tags if tag == "rect"
    ]
    assert len(boxes) == 5  # the module, which holds two of them, is drawn once
    assert boxes[0][0] < boxes[1][0] < boxes[2][0] < boxes[3][0]  # beyond all that it holds
    for one in boxes:  # no box lies on another one of its column
        assert not [other for other in boxes if other[0] == one[0] and one[1] < other[1] < one[1] + one[2]]
    assert len([one for tag, one in tags if tag == "path" and one.get("class") == "back"]) == 1  # the circle
    assert len([one for tag, one in tags if tag == "path" and one.get("class") == "on"]) == 5
    assert re.findall(r'class="label"[^>]*>([^<]+)<', found.page()) == [
        ".lines",
        "[&#x27;anna&#x27;]",
        "carts",
        "last",
        "mine",
    ]


def test_nobody_holds_it() -> None:
    found = holders(nodes=[["object", "int 42", 28, ""]], edges=[])
    assert str(found).splitlines()[1] == "nothing that the garbage collector knows holds it"
    assert "<rect" in found.page()


def test_names_of_a_server_are_text_and_nothing_else() -> None:
    nodes = [[SCRIPTS[:40], SCRIPTS, None, SCRIPTS[:40]] for _ in range(3)]
    edges = [[1, 0, how, SCRIPTS] for how in ("attribute", "key", "other", SCRIPTS[:40])] + [[2, 1, "local", SCRIPTS]]
    found = holders(nodes=nodes, edges=edges, note=SCRIPTS)
    tags = Tags(found.page())
    assert {tag for tag, _ in tags.found} == {"div", "style", "svg", "g", "title", "rect", "text", "path", "p"}
    assert not tags.open
    assert not [one for _, one in tags.found if any(name.startswith("on") or name in ("href", "src") for name in one)]
    for text in (found.page(), str(found), json.dumps(found.bundle(), ensure_ascii=False)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "http" not in found.page()
    assert "url(" not in found.page()


def test_the_largest_graph_that_is_taken_is_a_page_of_bounded_size() -> None:
    nodes = [["object", "x" * 300, 1, "more"] for _ in range(100)]
    chain = [[number + 1, number, "key", "y" * 300] for number in range(99)]
    back = [[number, number + 1, "key", "y" * 300] for number in range(99)]
    long = [[99, number, "attribute", "z" * 300] for number in range(100)]
    found = holders(nodes=nodes, edges=chain + back + long)
    assert len(found.page()) < 2_000_000
    assert len(str(found)) < 200_000
    Tags(found.page())


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": []},
        {"nodes": NODES * 30},
        {"nodes": [*NODES, ["object", "held by nobody", 1, ""]]},
        {"nodes": [["object", "a" * 1000, 1, ""]], "edges": []},
        {"nodes": [["object", "a", -1, ""]], "edges": []},
        {"nodes": [["object", "a"]], "edges": []},
        {"edges": [[9, 0, "key", ""]]},
        {"edges": [[0, -1, "key", ""]]},
        {"edges": [[True, 0, "key", ""]]},
        {"edges": EDGES * 90},
        {"edges": [[1, 0, None, ""]]},
        {"note": 3},
    ],
)
def test_a_graph_of_the_wrong_shape_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsafeAnswer):
        holders(**changes)


def test_an_answer_without_what_was_asked_for() -> None:
    with pytest.raises(UnsafeAnswer):
        memory.shown(memory.HOLDERS, reply() | {"holders": None}, "pi")
