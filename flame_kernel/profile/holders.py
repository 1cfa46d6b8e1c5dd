"""Who holds an object: a graph that the agent sends, as a tree of words and as a small picture.

The object is on the left; to its right is what holds it, then what holds that. Whatever a server sends is checked and
escaped; the picture is an SVG without a script, link or file. Its look is that of the flame graph.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ..commands.monitor import Shown
from ..connect.units import size_in_words
from ..errors import UnsafeAnswer
from ..terminal import one_line
from .flame_graph import STYLE

# What a holder is, and the class of the flame graph whose colour it has.
_COLOURS = {"module": "thread", "class": "thread", "frame": "thread", "container": "library"}
# How it holds: in words, and as Python writes it.
_WORDS = {
    "attribute": ("as .{}", ".{}"),
    "key": ("under {}", "[{}]"),
    "index": ("at {}", "[{}]"),
    "global": ("as global {}", "{}"),
    "local": ("as variable {}", "{}"),
    "closure": ("as free variable {}", "{}"),
    "default": ("as the default of {}", "{}="),
}
_UNNAMED = {"key": ("under a key", "[…]"), "local": ("as a variable", "a variable")}
# What is not shown of an object's holders.
_CUT = {
    "more": "others hold it too",
    "far": "what holds this is not shown",
    "slow": "what holds this was not looked at: that takes long in a process of this size",
}
_NOBODY = "nothing that the garbage collector knows holds it"

# Pixels: of a character; the least height of a box, the space between two in a column, and between two columns; from an
# arrow that begins at a box to the next one; the height of an arrow that passes a column.
_CHARACTER, _HEIGHT, _SPACE, _GAP, _STEP, _PASSING = 6.7, 34, 10, 32, 13, 4
# The most characters of a name in a box, and of a label.
_LONG, _LABEL = 28, 18

_STYLE = f"""{STYLE}
.flame-profile.holders{{overflow-x:auto}}
.flame-profile.holders svg{{max-width:none}}
.flame-profile.holders g.cut rect{{stroke:var(--jp-ui-font-color1,CanvasText);stroke-dasharray:3 3}}
.flame-profile.holders path{{fill:none;stroke:var(--jp-ui-font-color2,GrayText);stroke-width:1.2}}
.flame-profile.holders path.head{{fill:var(--jp-ui-font-color2,GrayText);stroke:none}}
.flame-profile.holders path.back{{stroke-dasharray:4 3}}
.flame-profile.holders text.label{{fill:var(--jp-ui-font-color1,CanvasText);paint-order:stroke;
stroke:var(--jp-layout-color0,Canvas);stroke-width:3px}}
"""


@dataclasses.dataclass(frozen=True)
class Node:
    """An object: what it is (``object``, ``container``, ``module``, ``class``, ``function``, ``frame``), its type or
    name, its bytes without what it refers to (None: not known), and what is not shown of its holders, in words."""

    kind: str
    name: str
    size: int | None
    cut: str

    @property
    def title(self) -> str:
        size = f", {size_in_words(self.size)}" if self.size is not None and self.kind != "module" else ""
        kind = f"{self.kind} " if self.kind in ("module", "class") else "frame of " if self.kind == "frame" else ""
        return f"{kind}{self.name}{size}"


@dataclasses.dataclass(frozen=True)
class Edge:
    """A reference: the number of the holder, that of what it holds, how (``attribute``, ``key``, ``index``, ``global``,
    ``local``, ``closure``, ``default``, ``other``), and by which name or index."""

    holder: int
    held: int
    how: str
    name: str

    def words(self, written: bool = False) -> str:
        """How it holds: ``as .name``, or ``written`` as Python does; empty if that is not known."""
        pair = _WORDS.get(self.how) if self.name else _UNNAMED.get(self.how)
        return pair[written].format(self.name) if pair else ""


class Holders(Shown):
    """What holds an object, in words; a notebook shows it as a picture.

    nodes  the objects, a `Node` each; the first one is that which was asked about
    edges  who holds whom, an `Edge` each
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    _told: tuple[str, ...]

    @classmethod
    def of_reply(cls, reply: dict[str, Any], location: str, took: str) -> Holders:
        """The holders in a memory_reply whose shape was checked; raises UnsafeAnswer if they are not a graph of what
        holds the first object."""
        graph = reply["holders"]
        if graph is None:
            raise UnsafeAnswer(location, "memory_reply without the holders that were asked for")
        nodes = tuple(
            Node(one_line(kind, 20), one_line(name, 200), size, _CUT.get(cut, ""))
            for kind, name, size, cut in graph["nodes"]
        )
        edges = tuple(Edge(holder, held, how, one_line(name, 100)) for holder, held, how, name in graph["edges"])
        if any(max(edge.holder, edge.held) >= len(nodes) for edge in edges) or len(_columns(edges)[0]) != len(nodes):
            raise UnsafeAnswer(location, "a memory_reply with holders that hold nothing")
        told = tuple(filter(None, ("" if edges or nodes[0].cut else _NOBODY, one_line(graph["note"], 300), took)))
        made = cls("\n".join([*_tree(nodes, edges), *told]))
        made.nodes, made.edges, made._told = nodes, edges, told
        return made

    def page(self) -> str:
        """The picture as HTML that needs no other file."""
        words = "".join(f"<p>{html.escape(one)}</p>" for one in self._told)
        return (
            f'<div class="flame-profile holders"><style>{_STYLE}</style>{_drawn(self.nodes, self.edges)}{words}</div>'
        )

    def bundle(self) -> dict[str, str]:
        """The data of a display, by MIME type."""
        return {"text/plain": str(self), "text/html": self.page()}

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return self.bundle()


def _columns(edges: Sequence[Edge]) -> tuple[dict[int, int], set[tuple[int, int]]]:
    """``({number of an object: its column}, {(holder, held), …} of the references that close a circle)``.

    Each holder's column is beyond those of all that it holds. Objects that do not hold the first one are missing."""
    holders = defaultdict(list)
    for edge in edges:
        holders[edge.held].append(edge.holder)
    circles: set[tuple[int, int]] = set()
    done: list[int] = []  # a holder comes before what it holds
    seen, stack = {0}, [(0, iter(holders[0]))]
    while stack:
        held, rest = stack[-1]
        holder = next(rest, None)
        if holder is None:
            done.append(held)
            stack.pop()
        elif any(holder == one for one, _ in stack):
            circles.add((holder, held))
        elif holder not in seen:
            seen.add(holder)
            stack.append((holder, iter(holders[holder])))
    found = dict.fromkeys(reversed(done), 0)
    for held in found:
        for holder in holders[held]:
            if (holder, held) not in circles:
                found[holder] = max(found[holder], found[held] + 1)
    return found, circles


# -- as words ----------------------------------------------------------------------------------------------------------


def _tree(nodes: Sequence[Node], edges: Sequence[Edge]) -> list[str]:
    """Lines in which each holder stands, indented, below what it holds. What holds a holder is told once."""
    holders = defaultdict(list)
    for edge in edges:
        holders[edge.held].append(edge)
    lines: list[str] = []
    told: set[int] = set()
    rest: list[tuple[int, int, str]] = [(0, 0, "{}")]  # the number of an object, its depth, and how its line begins
    while rest:
        number, depth, begin = rest.pop()
        if number < 0:
            lines.append(begin)
            continue
        node, again = nodes[number], number in told
        shown = "told above" if again and holders[number] else ""
        lines.append("  " * depth + begin.format(node.title) + (f" ({shown})" if shown else ""))
        if again:
            continue
        told.add(number)
        if node.cut:
            rest.append((-1, 0, "  " * (depth + 1) + f"[{node.cut}]"))
        for edge in reversed(holders[number]):
            words = edge.words()
            rest.append((edge.holder, depth + 1, _line(words)))
    return lines


def _line(words: str) -> str:
    """A line about a holder, with a place for its title."""
    return "held by {}" + (", " + words.replace("{", "{{").replace("}", "}}") if words else "")


# -- as a picture ------------------------------------------------------------------------------------------------------

_Pair = tuple[int, int]  # a holder and what it holds: all its references to that are one arrow
_Spot = int | tuple[_Pair, int]  # what stands in a column: a box, or an arrow that passes this column


class _Picture:
    """Where everything is. Columns go from left to right, so arrows go from right to left."""

    def __init__(self, nodes: Sequence[Node], edges: Sequence[Edge]) -> None:
        self.nodes = nodes
        self.columns_of, circles = _columns(edges)
        self.arrows: dict[_Pair, list[Edge]] = defaultdict(list)
        for edge in edges:
            self.arrows[edge.holder, edge.held].append(edge)
        self.circles = {pair: self.arrows.pop(pair) for pair in circles}
        self.ways = {pair: self._way(pair) for pair in self.arrows}
        self.columns = self._ordered()
        self.begins: dict[int, list[_Pair]] = defaultdict(list)  # arrows by the box where they begin
        for pair in self.arrows:
            self.begins[pair[0]].append(pair)
        self.x: list[float] = []
        self.widths: list[float] = []
        self.y: dict[_Spot, float] = {}  # of the upper side
        self.width = self.height = 0.0
        self._place()

    def _way(self, pair: _Pair) -> list[_Spot]:
        """Where an arrow passes, from what is held to its holder."""
        holder, held = pair
        between = range(self.columns_of[held] + 1, self.columns_of[holder])
        return [held, *((pair, column) for column in between), holder]

    def _ordered(self) -> list[list[_Spot]]:
        """What stands in each column, from above: each near what it leads to, so that few arrows cross."""
        beside: dict[_Spot, list[_Spot]] = defaultdict(list)
        columns: list[list[_Spot]] = [[] for _ in range(max(self.columns_of.values()) + 1)]
        for number, column in self.columns_of.items():
            columns[column].append(number)
        for way in self.ways.values():
            for left, right in itertools.pairwise(way):
                beside[right].append(left)
                if not isinstance(right, int):
                    columns[right[1]].append(right)
        rows: dict[_Spot, float] = {0: 0.0}
        for spots in columns[1:]:
            spots.sort(key=lambda spot: sum(rows[one] for one in beside[spot]) / len(beside[spot]))
            for row, spot in enumerate(spots):
                rows[spot] = row - len(spots) / 2
        return columns

    def tall(self, spot: _Spot) -> float:
        return max(_HEIGHT, _STEP * len(self.begins[spot]) + 8) if isinstance(spot, int) else _PASSING

    def _place(self) -> None:
        talls = [sum(map(self.tall, column)) + _SPACE * (len(column) - 1) for column in self.columns]
        self.height = max(talls) + 24
        x = 2.0
        for column, tall in zip(self.columns, talls, strict=True):
            boxes = [spot for spot in column if isinstance(spot, int)]
            x += _CHARACTER * max((len(self.label(pair)) for box in boxes for pair in self.begins[box]), default=0)
            self.x.append(x)
            lines = [line for box in boxes for line in _lines(self.nodes[box])]
            self.widths.append(_CHARACTER * max(map(len, lines), default=0) + 12)
            y = (self.height - 16 - tall) / 2
            for spot in column:
                self.y[spot] = y
                y += self.tall(spot) + _SPACE
            self.width = x + self.widths[-1] + 2
            x += self.widths[-1] + _GAP
        for box, pairs in self.begins.items():
            pairs.sort(key=lambda pair: self.middle(self.ways[pair][-2]))
            self.begins[box] = pairs

    def middle(self, spot: _Spot) -> float:
        return self.y[spot] + self.tall(spot) / 2

    def label(self, pair: _Pair) -> str:
        """How a holder holds, as it stands beside it."""
        found = dict.fromkeys(filter(None, (edge.words(True) for edge in self.arrows[pair])))
        return one_line(", ".join(found), _LABEL)


def _drawn(nodes: Sequence[Node], edges: Sequence[Edge]) -> str:
    picture = _Picture(nodes, edges)
    parts = [_circle(picture, pair) for pair in picture.circles]
    parts += [_arrow(picture, pair) for pair in picture.arrows]
    parts += [_box(picture, number) for number in range(len(nodes))]
    parts += [_label(picture, pair) for pair in picture.arrows]
    size = f'width="{picture.width:.0f}" height="{picture.height:.0f}"'
    shape = f"width:{picture.width:.0f}px;height:{picture.height:.0f}px"  # a page may have rules for all pictures
    return f'<svg {size} style="{shape}" role="img" aria-label="what holds it">{"".join(parts)}</svg>'


def _lines(node: Node) -> tuple[str, str]:
    """What stands in a box."""
    size = "" if node.size is None or node.kind == "module" else size_in_words(node.size)
    more = "more hold it" if node.cut == _CUT["more"] else "…" if node.cut else ""
    what = node.kind if node.kind in ("module", "class", "frame") else ""
    return one_line(node.name, _LONG), ", ".join(filter(None, (what, size, more)))


def _box(picture: _Picture, number: int) -> str:
    node, column = picture.nodes[number], picture.columns_of[number]
    x, y, tall = picture.x[column], picture.y[number], picture.tall(number)
    colour = "own" if number == 0 else _COLOURS.get(node.kind, "python")
    title = f"{node.title}\n{node.cut}" if node.cut else node.title
    first, second = (html.escape(line) for line in _lines(node))
    text = y + tall / 2
    return (
        f'<g class="{colour}{" cut" if node.cut else ""}"><title>{html.escape(title)}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{picture.widths[column]:.1f}" height="{tall:.1f}" rx="4"/>'
        f'<text x="{x + 6:.1f}" y="{text - 3:.1f}">{first}</text>'
        f'<text x="{x + 6:.1f}" y="{text + 11:.1f}">{second}</text></g>'
    )


def _begin(picture: _Picture, pair: _Pair) -> tuple[float, float]:
    """Where an arrow begins: on the left side of the holder's box, each arrow at a height of its own."""
    holder, pairs = pair[0], picture.begins[pair[0]]
    y = picture.middle(holder) + _STEP * (pairs.index(pair) - (len(pairs) - 1) / 2)
    return picture.x[picture.columns_of[holder]], y


def _label(picture: _Picture, pair: _Pair) -> str:
    label = html.escape(picture.label(pair))
    x, y = _begin(picture, pair)
    return f'<text class="label" x="{x - 4:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>' if label else ""


def _arrow(picture: _Picture, pair: _Pair) -> str:
    """From a holder to what it holds."""
    x, y = _begin(picture, pair)
    parts = [f"M{x:.1f} {y:.1f}"]
    for spot in reversed(picture.ways[pair][:-1]):
        column = picture.columns_of[spot] if isinstance(spot, int) else spot[1]
        to_x, to_y = picture.x[column] + picture.widths[column], picture.middle(spot)
        end = to_x + 6 if isinstance(spot, int) else to_x
        middle = (x + to_x) / 2
        parts.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {end:.1f} {to_y:.1f}")
        x, y = picture.x[column], to_y
        if not isinstance(spot, int):
            parts.append(f"H{x:.1f}")
    return _line_with_head(picture.arrows[pair], "on", "".join(parts), f"M{to_x:.1f} {to_y:.1f}l7 -4v8z")


def _circle(picture: _Picture, pair: _Pair) -> str:
    """From a holder to something that holds it: dashed, from below to below."""
    ends = []
    for number, share in zip(pair, (0.25, 0.75), strict=True):
        column = picture.columns_of[number]
        ends.append((picture.x[column] + share * picture.widths[column], picture.y[number] + picture.tall(number)))
    (x, y), (to_x, to_y) = ends
    low = max(y, to_y) + 16
    line = f"M{x:.1f} {y:.1f}C{x:.1f} {low:.1f} {to_x:.1f} {low:.1f} {to_x:.1f} {to_y + 6:.1f}"
    return _line_with_head(picture.circles[pair], "back", line, f"M{to_x:.1f} {to_y:.1f}l-4 7h8z")


def _line_with_head(edges: Sequence[Edge], kind: str, line: str, head: str) -> str:
    title = html.escape("; ".join(dict.fromkeys(edge.words() or "holds it" for edge in edges)))
    return f'<g><title>{title}</title><path class="{kind}" d="{line}"/><path class="head" d="{head}"/></g>'
