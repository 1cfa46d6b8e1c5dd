"""Asks a far side what its memory is used for, and puts the answer into words."""

from __future__ import annotations

from typing import Any

from ..commands.monitor import Shown, answer
from ..commands.tables import aligned
from ..connect.units import size_in_words
from ..errors import FlameError
from ..security import answers
from ..session.session import Session
from ..terminal import one_line
from .holders import Holders
from .profile import Call

START, STOP, LOOK, TYPES, HOLDERS = "start", "stop", "look", "types", "holders"


def memory(session: Session, what: str = LOOK, of: str = "") -> Shown:
    """What ``%flame memory`` shows: growth by line since the last call (``look``, between ``start`` and ``stop``),
    the memory of all objects by type (``types``), or what holds the value of expression ``of``, as `Holders`, which a
    notebook shows as a picture. Raises FlameError."""
    what = HOLDERS if of else what
    if what not in (START, STOP, LOOK, TYPES, HOLDERS):
        raise FlameError(f"memory() looks at {START}, {STOP}, {LOOK} or {TYPES}, not {what!r}; or of=EXPRESSION")
    return shown(what, answer(session, "memory", what=what, expression=of), session.location)


def shown(what: str, reply: dict[str, Any], location: str) -> Shown:
    """A memory_reply in words; of who holds an object also as a picture. Raises UnsafeAnswer."""
    answers.reply("memory", reply, location)
    return Holders.of_reply(reply, location, _took(reply)) if what == HOLDERS else Shown(_text(what, reply))


def _took(reply: dict[str, Any]) -> str:
    return f"this look took {1000 * reply['seconds']:.0f} ms, and held up what else runs there"


def _text(what: str, reply: dict[str, Any]) -> str:
    took = _took(reply)
    if what == STOP:
        return "allocations are not noted any more"
    if what == START:
        return (
            "allocations are noted from now on, which makes each slower, until %flame memory --stop; "
            "%flame memory shows what has grown"
        )
    if what == TYPES:
        rows = [("size", "objects", "type")]
        rows += [(size_in_words(size), str(count), one_line(name, 200)) for name, count, size in reply["types"]]
        return "\n".join([f"{reply['objects']} objects; {took}", *aligned(rows)])
    noted = f"noted: {size_in_words(reply['traced'])}, which takes {size_in_words(reply['overhead'])} by itself"
    if not reply["lines"]:
        return f"nothing has grown since the last look; {noted}; {took}"
    lines = [("more", "objects", "now", "line", "source")]
    for file, line, more, count, size, source in reply["lines"]:
        place = Call("", one_line(file, 300), line).place
        figures = (f"+{size_in_words(more)}", f"{count:+.0f}", size_in_words(size))
        lines.append((*figures, place, one_line(source, 100)))
    return "\n".join([f"{noted}; {took}", *aligned(lines)])
