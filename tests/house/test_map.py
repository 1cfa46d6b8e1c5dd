"""The map of the house, `flame_kernel/README.md`, is what one finds there."""

from __future__ import annotations

import re

from rooms import HERE, PACKAGE, THERE, name_of

TEXT = (PACKAGE / "README.md").read_text(encoding="utf-8")


def on_the_map() -> dict[str, set[str]]:
    """The rooms of the table, with the files that stand in each row."""
    rows = re.findall(r"^\| `([\w./]+)` \|.*\| ((?:`\w+` ?)+)\|$", TEXT, re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", files)) for room, files in rows}


def in_the_house() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__init__.py":
            room = path.parent.relative_to(PACKAGE)
            found.setdefault(str(room), set()).add(path.stem)
    return found


def test_the_map_has_every_room_and_every_file() -> None:
    assert on_the_map() == in_the_house()


def test_the_map_has_the_order_that_is_kept() -> None:
    assert f"Here: `{HERE}`" in TEXT
    assert f"The agent: `{THERE}`" in TEXT


def test_the_way_of_a_cell_passes_files_that_are_there() -> None:
    way = TEXT.partition("## One cell and back")[2].partition("```\n")[2].partition("```")[0]
    there = {name_of(path, PACKAGE).replace(".", "/") for path in PACKAGE.rglob("*.py")}
    named = set(re.findall(r"\b(?:kernel|session|connect)/\w+", way))
    assert named
    assert named <= there, named - there


def test_the_answers_of_the_map_lead_to_what_is_there() -> None:
    section = TEXT.partition("## Where is …")[2].partition("\n## ")[0]
    answers = re.findall(r"^\| .+ \| (.+) \|$", section, re.MULTILINE)
    assert len(answers) > 20
    for answer in answers:
        file = text = ""
        for name in re.findall(r"`([\w/]+)`", answer):
            if "/" in name:
                file = name
                text = (PACKAGE / f"{file}.py").read_text(encoding="utf-8")
            else:
                assert re.search(rf"^ *(?:(?:async )?def|class) {name}\b|^{name}\b", text, re.MULTILINE), (file, name)
