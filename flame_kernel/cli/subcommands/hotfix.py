"""``jupyter flame hotfix``: gives a function of a running program new code; hot/fixing.py does it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import ClassVar

from ...errors import FlameError, TargetError
from ...hot import fixing
from ...hot.commands import hotfix
from ...remote.foreground import write
from ...terminal import plain_text
from ..connecting import Connecting
from ..parser import Parser


class Hotfix(Connecting):
    """Fixes a function in a server's process, takes the fix back, or lists what is fixed there."""

    title = "hotfix"
    about = """
        Give a function of the running program new code, from its next call on: FILE has its def and nothing else.

        Without FILE the function is printed as it is there; without NAME the fixes in that process are listed. A fix
        ends with its session, so the session needs a name; it is left alive. The program's own log notes who did it.
        """
    typed = """
        jupyter flame hotfix -t shop app.handlers.slow > slow.py
        jupyter flame hotfix -t shop --session fix app.handlers.slow slow.py
        jupyter flame hotfix -t shop
        jupyter flame hotfix -t shop --session fix --undo
        """
    session: ClassVar[str] = "the session to which the fix belongs; it is made if there is none, and left alive"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("name", nargs="?", metavar="NAME", help="module.function or module.Class.method")
        parser.add_argument("file", nargs="?", metavar="FILE", help="its new text; - is stdin")
        parser.add_argument(
            "--undo", action="store_true", help="put the old code back: of NAME, or of all that the session has fixed"
        )
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        name, undo, self.writes = options.name, options.undo, options.file is not None
        text = None if options.file is None else _read(options.file)
        if undo and text is not None:
            raise TargetError("--undo puts the old code back and takes no FILE")
        if (undo or text is not None) and not self.target().session:
            raise TargetError("a fix belongs to a session and ends with it; name one, such as --session fix")
        with self.remote() as remote:
            if name is not None and text is None and not undo:
                write("stdout", plain_text(fixing.source_of(remote.session, name)))
                return None
            try:
                shown, _ = hotfix(remote.session, {"name": name, "undo": undo}, text or "")
            except FlameError:
                if remote.session.server["fresh"]:  # the session was made for this, and is empty
                    remote.close()
                raise
        print(plain_text(shown))
        return None


def _read(file: str) -> str:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise TargetError(f"cannot read {file}: {getattr(e, 'strerror', None) or e}; name the new text here") from None
    if not text.strip():
        raise TargetError(f"{'stdin' if file == '-' else file} is empty; it must contain the function's new text")
    return text
