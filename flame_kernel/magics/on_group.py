"""Carries out the ``%flame`` lines that look into, or change, all hosts of a group; equal answers are shown once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..commands import monitor, rails
from ..commands.parsing import Line
from ..connect.rails_table import Rails
from ..errors import FlameError, GroupError
from ..group import commands
from ..group.future import GroupFuture
from ..group.group import Group
from ..group.results import Results, told_errors
from ..profile.asking import finished, together
from ..terminal import plain_text
from .groups import Groups
from .output import show_drawn

NAMES = ("where", "top", "profile", "hot", "hotfix")
# Commands with a target that work on groups elsewhere, or name a server by it.
ELSEWHERE = ("px", "pip", "dask", "result", "sessions", "doctor")


class OnGroup:
    """Carries out those lines, each by the method of its name."""

    def __init__(self, shell: Any, groups: Groups) -> None:
        self._shell = shell
        self._groups = groups

    def of(self, line: Line) -> Callable[..., None] | None:
        """The method that carries out a line for the group that it means; None if it means one host. Raises
        FlameError."""
        words = line.values.get("target")
        if line.name in ELSEWHERE or "target" not in line.values or not self._groups.means(words):
            return None
        is_live = any(line.values.get(name) for name in ("every", "end", "live"))
        if is_live or line.name not in NAMES:
            what = "a live view" if is_live and line.name in NAMES else f"%flame {line.name}"
            raise FlameError(
                f"{what} is for one host, and {words or self._groups.current} is a group; connect to one of its hosts "
                f"(%flame connect {self.group(line).members[0].where})"
            )
        found: Callable[..., None] = getattr(self, line.name)
        return found

    def rails(self, line: Line) -> Mapping[str, Rails]:
        """The rails of the hosts that a line means. Raises TargetError."""
        return rails.of_hosts(self.group(line).members)

    def group(self, line: Line) -> Group:
        """The group that a line means. Raises TargetError."""
        return self._groups.of(line["target"] or self._groups.current)

    def audit(self) -> str | None:
        """What was noted for the current group; None if there is none. Raises FlameError."""
        return commands.noted(self._groups.of(self._groups.current)) if self._groups.current is not None else None

    def where(self, line: Line) -> None:
        print(commands.looked(self.group(line), lambda one: monitor.where(one, line["all"], monitor.ALL), mask=True))

    def top(self, line: Line) -> None:
        print(commands.looked(self.group(line), monitor.top, mask=False))

    def profile(self, line: Line) -> None:
        """Show the profiles of all hosts as one. Ctrl-C ends them early."""
        profile, saved = finished(together(commands.profiles(self.group(line), line.values)), line.values)
        show_drawn(self._shell, profile)
        if saved:
            print(plain_text(saved))

    def hot(self, line: Line) -> None:
        _done(*commands.hot(self.group(line), line.values))

    def hotfix(self, line: Line, text: str = "") -> None:
        _done(*commands.hotfix(self.group(line), line.values, text, self._shell.set_next_input))


def _done(future: GroupFuture, tell: Callable[[Results], str]) -> None:
    """Wait for a call on all hosts; print what ``tell`` makes of the answers, and who failed. Raises GroupError if all
    did."""
    try:
        future.wait()
    except KeyboardInterrupt:
        future.interrupt()
        raise
    results = future.results
    if results.errors and not results.ok:
        raise GroupError(len(results), results.errors, results, told_errors(results.errors, len(results)))
    print(plain_text(tell(results)))
    for words in told_errors(results.errors, len(results)):
        print(words)
