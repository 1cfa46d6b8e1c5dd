"""Help of ``%flame``, made from the table of commands: the list, all about one command, and the reference page's table.

``python -m flame_kernel.commands.help`` prints that table.
"""

from __future__ import annotations

import textwrap
from typing import Any

from ..errors import FlameError
from ..terminal import WIDTH
from .command import Command
from .language import CELL, COMMANDS, commands
from .looking import PROFILE_CELL
from .options import FACES, KERNEL, MAGICS, Option
from .parsing import find, usage
from .tab import command_at

LOCAL, HERE = "%%local", "first line of a cell that runs on this machine, with the kernel's own Python"
_CELLS = {
    KERNEL: (LOCAL, HERE),
    MAGICS: ("%%flame", "first line of a cell that runs there; %%flame? shows its options"),
}


def overview(face: str) -> str:
    """The commands of a face, one a line."""
    rows = [(f"%flame {one.name}", one.brief) for one in commands(face)]
    lines = _columns([*rows, _CELLS[face]], "")
    return "\n".join([*lines, "", "%flame help NAME, or %flame NAME?, tells all about one; Tab knows them."])


def about(command: Command, face: str) -> str:
    """All about one command: how it is written, what its arguments and options are, examples."""
    parts = [usage(command, face), textwrap.fill(f"{command.brief[0].upper()}{command.brief[1:]}.", WIDTH)]
    if command.more:
        parts.append(textwrap.fill(command.more, WIDTH))
    rows = [(one.metavar, one.help) for one in command.arguments_in(face)]
    rows += [(_written(one), one.help) for one in command.options_in(face)]
    if rows:
        parts.append("\n".join(_columns(rows, "  ")))
    examples = [line for line in command.examples if _fits(line, face)]
    if examples:
        parts.append("\n".join(["examples:", *(f"  {line}" for line in examples)]))
    if command.aliases:
        parts.append(f"The same as: {', '.join(f'%flame {name}' for name in command.aliases)}.")
    return "\n\n".join(parts)


def of_cell(line: str, face: str) -> str | None:
    """All about the first line of a cell, if it is one of ours, such as ``%%flame``; a ? may stand behind it."""
    word = line.split()[0].rstrip("?") if line.strip() else ""
    if word == CELL.name:
        return about(CELL, face)
    if face == KERNEL and word == PROFILE_CELL.name:
        return about(PROFILE_CELL, face)
    return f"{LOCAL}: {HERE}." if face == KERNEL and line.strip().rstrip("?") == LOCAL else None


def inspected(text: str, at: int, face: str) -> dict[str, Any] | None:
    """The content of an inspect_reply for a line of ours, with the cursor ``at`` a character; None for other lines."""
    before = text[:at].split("\n")
    number, column = len(before) - 1, len(before[-1])
    line = text.split("\n")[number]
    shown = of_cell(line, face) if number == 0 else None
    name = command_at(line, column)
    if name is not None:
        try:
            shown = about(find(name, face), face) if name else overview(face)
        except FlameError as e:  # it says what to do instead
            shown = str(e)
    if shown is None:
        return None
    return {"status": "ok", "found": True, "data": {"text/plain": shown}, "metadata": {}}


def _written(option: Option) -> str:
    if option.choices:
        return f"{', '.join(option.flags)} {'|'.join(option.choices)}"
    return option.written


def _fits(line: str, face: str) -> bool:
    return face == MAGICS or line.startswith("%flame")  # no value of a line in the kernel


def _columns(rows: list[tuple[str, str]], indent: str) -> list[str]:
    """Rows of two columns; the second is wrapped, and stands below the first where that is long."""
    width = min(max(len(first) for first, _ in rows), 22)
    behind = indent + " " * (width + 2)
    lines: list[str] = []
    for first, second in rows:
        wrapped = textwrap.wrap(second, WIDTH - len(behind))
        if len(first) <= width:
            lines.append(f"{indent}{first:<{width}}  {wrapped.pop(0)}")
        else:
            lines.append(f"{indent}{first}")
        lines += [behind + line for line in wrapped]
    return lines


def reference_table() -> str:
    """The table of commands for notebooks/REFERENCE.md: what each does, and where it makes sense."""
    lines = ["| `%flame …` | | kernel | magics |", "|---|---|---|---|"]
    for one in COMMANDS:
        there = " | ".join("yes" if face in one.faces else "–" for face in FACES)
        lines.append(f"| `{one.name}` | {one.brief} | {there} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference_table())
