"""``jupyter flame profile``: shows where a server's process spends its time; profile/ takes the profile."""

from __future__ import annotations

import argparse
from typing import ClassVar

from ...commands.language import BY_NAME
from ...profile.asking import ProfileOptions, finished, take
from ...terminal import plain_text
from ..connecting import Connecting
from ..parser import Parser

# Options that make sense only in a notebook.
_NOT_HERE = ("live", "end", "cell", "target")


class Profile(Connecting):
    """Shows where the time of a server's process goes."""

    title = "profile"
    about = """
        Sample the stacks of a server's process, and show the hottest lines; -o saves a flame graph as a page, or
        speedscope's JSON. The profiles of a group's servers are shown as one. Ctrl-C ends it early. Nothing is traced
        or patched there, and nothing is left.
        """
    typed = """
        jupyter flame profile shop --seconds 5 -o shop.html
        jupyter flame profile web --seconds 5
        jupyter flame profile shop --tasks
        jupyter flame profile shop --cpu --against before.json
        """
    word: ClassVar[bool] = True
    alone: ClassVar[bool] = False
    session: ClassVar[str] = "the session whose process it is; it is left alive at the end"

    def arguments(self, parser: Parser) -> None:
        super().arguments(parser)
        groups = {name: parser.add_mutually_exclusive_group() for name in ("scope", "mode")}
        for option in BY_NAME["profile"].options:
            if option.name not in _NOT_HERE:
                option.add_to(groups.get(option.group, parser))

    def run(self, options: argparse.Namespace) -> int | None:
        values = vars(options)
        wanted = ProfileOptions.of(values)
        if self.is_group:
            from .. import on_group

            with on_group.opened(self) as group:
                profile, saved = finished(group.profile(**wanted.fields()), values, str(self.where))
        else:
            with self.remote() as remote:
                profile, saved = finished(take(remote.session, wanted), values, str(remote.target))
        print(plain_text(str(profile)))
        if saved:
            print(plain_text(saved))
        return None
