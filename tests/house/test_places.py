"""What differs between the places of cells stands in ``agent/session/places.py``; nobody else asks for their names."""

from __future__ import annotations

import ast
from pathlib import Path

from flame_kernel.agent.session import places

AGENT = Path(places.__file__).parents[1]


def questions(source: str) -> list[int]:
    """The lines that compare something with the name of a place."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [one for side in (node.left, *node.comparators) for one in ast.walk(side)]
            if any(isinstance(one, ast.Constant) and one.value in places.PLACES for one in sides):
                found.append(node.lineno)
    return found


def test_nobody_asks_for_the_name_of_a_place() -> None:
    found = {path.relative_to(AGENT).as_posix(): questions(path.read_text("utf-8")) for path in AGENT.rglob("*.py")}
    asked = {name: lines for name, lines in found.items() if lines}
    assert not asked, f"{asked}: say there what differs, by a member of Place"
    assert questions('if host.place == "child" or place in ("main", "x"):\n    pass\n') == [1, 1]


def test_each_place_is_found_by_its_name() -> None:
    assert {"process", "child", "main"} == set(places.PLACES)
    assert all(place.name == name for name, place in places.PLACES.items())
