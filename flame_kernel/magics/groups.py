"""``%%flame -t web``: a cell on several far sides at once; equal output is shown once.

The words are those of ipyparallel's ``%%px``: https://ipyparallel.readthedocs.io/en/stable/tutorial/magics.html
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from ..commands import rails
from ..commands.code_words import check_code, identifier
from ..commands.options import MAGICS
from ..commands.parsing import Line, parse_cell, words_of
from ..connect.selection import is_group
from ..connect.target import load_target
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import FlameError
from ..group import folding
from ..group.cell import CellResults
from ..group.following import Following
from ..group.future import GroupFuture
from ..group.group import Group
from ..group.member import Member
from ..group.opening import are_numbers, group, some
from ..group.telling import NO_CELL, again, cell_options, failure, live_line, runs_on, tell
from ..packages.commands import on_each, read, without_there
from ..session.user import agrees, ask_line
from ..terminal import plain_text
from .connections import Connections
from .px import Auto


class Groups:
    """The groups of one IPython shell, by the words that the user named them with; ``last`` is the last cell's
    future."""

    def __init__(self, shell: Any, connections: Connections) -> None:
        self._shell = shell
        self._connections = connections
        self._groups: dict[str, Group] = {}
        self._members: dict[str, Member] = {}  # members of all groups: a host has one session, whatever words name it
        self._words: str | None = None  # the words of the last group
        self.last: GroupFuture | None = None
        self.current: str | None = None  # the group that is used if no target is named
        self.auto = Auto(self._check)

    def __repr__(self) -> str:
        return f"<Groups {', '.join(self._groups) or 'none'}>"

    def items(self) -> list[tuple[str, Group]]:
        return list(self._groups.items())

    def means(self, words: str | None) -> bool:
        """Whether ``words`` name several far sides, and no connection of this notebook. Raises TargetError."""
        if words is None:
            return self.current is not None
        if self._connections.is_connected(words):
            return False
        if words in self._groups or words in self._members:
            return True
        file = self._file()
        return is_group(words, file) or are_numbers(words, file)

    def check_options(self, words: str | None, given: Mapping[str, Any]) -> None:
        """Raise FlameError if options of a connection are given for several far sides."""
        if given and words is not None and is_group(words, self._file()):
            advice = "for other targets set FLAME_CONFIG" if "config" in given else "write that into targets.toml"
            options = ", ".join("--" + name.replace("_", "-") for name in given)
            raise FlameError(
                f"{words} means several hosts, and {options} is for one; {advice}, or connect to one by one"
            )

    def _file(self) -> TargetsFile:
        return _file().with_targets({name: str(one.location) for name, one in self._connections.items()})

    def of(self, words: str | None) -> Group:
        """The group of these words; its sessions stay until it is disconnected. Raises TargetError.

        None means the last group, else the default group, else all connections; ``0``, ``1:3``, ``::2`` are some of its
        members, as in ``%%px``.
        """
        file = self._file()
        if words is None:
            return self._usual()
        if are_numbers(words, file):
            return some(self._usual(), words)
        defaults, before = self._connections.defaults, self._groups.get(words)
        # Made again each time, from existing members: the file or a connection may have changed.
        found = self._groups[words] = group(
            words,
            known=dict(self._connections.items()),
            load=lambda where, given: load_target(where, overrides=given, defaults=defaults),
            shared=self._members,
            confirmed=True,  # the user is asked before each cell
        )
        self._words = words
        if before is not None and before.labels != found.labels:
            self._leave(before, keep=False)
        return found

    def _check(self, words: str) -> None:
        """Raise FlameError if a cell could not go to ``words``."""
        if self.means(words):
            self.of(words)
        elif not self._connections.is_connected(words):
            self._connections.pick(words)

    def _leave(self, group: Group, keep: bool) -> None:
        """End those sessions of a group that no other group has."""
        used = {label for other in self._groups.values() for label in other.labels}
        group.detach(used) if keep else group.close(used)
        for label in group.labels:
            if label not in used:
                self._members.pop(label, None)

    def _usual(self) -> Group:
        names = self._connections.names
        words = self._words or _file().default_group or ",".join(names)
        if not words:
            raise FlameError("no group is meant: name one by -t, or write default_group into targets.toml")
        return self.of(words)

    def disconnect(self, words: str, keep: bool = False) -> None:
        """End a group's sessions; with ``keep``, leave them running."""
        if words in self._groups:  # else no cell has run on it yet
            self._leave(self._groups.pop(words), keep)
        self._words = None if self._words == words else self._words
        self.current = None if self.current == words else self.current

    def close(self) -> None:
        """End all of them."""
        for words in list(self._groups):
            with contextlib.suppress(FlameError):
                self.disconnect(words)

    def pip(self, line: Line) -> None:
        """Install, list or remove packages on each host of the group that ``line`` names. Raises FlameError."""
        asked = read(words_of(line["code"]))
        if asked.there:
            self.run(parse_cell(f"-t {line['target']}", MAGICS), without_there(line["code"]), {})
            return
        chosen = self.of(line["target"])
        if asked.verb != "list":
            rails.refuse_command(rails.of_hosts(chosen.members), line.name)

        def consent(question: str) -> bool:
            return agrees(ask_line, question)

        failed = on_each(chosen.labels, lambda label: chosen[label].session, asked, consent, print, print)
        if failed:
            raise FlameError("\n".join(failed))

    # -- a cell --------------------------------------------------------------------------------------------------------

    def run(
        self,
        line: Line,
        code: str,
        values: dict[str, Any],
        *,
        background: bool = False,
        raise_error: bool = True,
        seconds: float | None = None,
    ) -> GroupFuture | None:
        """Run one cell on a group; returns its future if we do not wait for it."""
        out, pulled = line["out"], line["pull"]
        for wanted in (*pulled, *([out] if out else [])):
            identifier(wanted, "variable name")
        check_code(code)
        chosen = self.of(line["target"] or self.current)
        print(rails.hold_on(chosen.members, code, ask_line), end="")
        how = cell_options(line, len(chosen), seconds, raise_error)
        if line["verbose"]:
            print(runs_on(chosen.labels))
        if background:
            how = dataclasses.replace(how, stream=False)
        following = Following(chosen, how, self._screen())
        future = self.last = following.begin(code, values, notebook=True)
        if out:
            self._shell.user_ns[out] = future
        if background and pulled:
            future.add_done_callback(lambda done: self._pull_behind(chosen, future, pulled))
        if line["local"]:
            self.run_here(code)
        if background:
            return None if out else future
        results = following.wait()
        self._pull(chosen, future, pulled)
        if results.has_failed and how.raise_error:
            raise failure(results, how.mask)
        return None

    def run_here(self, code: str) -> None:
        """Run the cell in this shell, even while every cell goes to a group."""
        with self.auto.off():
            self._shell.run_cell(code)

    def _pull(self, chosen: Group, future: GroupFuture, names: list[str]) -> None:
        """Bind names here to their values on the hosts that are done."""
        done = future.results.ok
        for name in names if done else ():
            self._shell.user_ns[name] = chosen.some(done).pull(name)

    def _pull_behind(self, chosen: Group, future: GroupFuture, names: list[str]) -> None:
        """The same for a cell that nobody waits for; on another thread, because a member's thread calls this."""

        def pull() -> None:
            try:
                self._pull(chosen, future, names)
            except FlameError as e:
                print(plain_text(f"{', '.join(names)}: {e}"), file=sys.stderr)

        threading.Thread(target=pull, name="flame-pull", daemon=True).start()

    # -- showing -------------------------------------------------------------------------------------------------------

    def _screen(self) -> Here:
        return Here(self._shell)

    def show_again(self, line: Line) -> None:
        """Show or bind the results of the last cell so far, and show which hosts are not done; errors of the cell are
        not raised. Raises FlameError."""
        if self.last is None:
            raise FlameError(NO_CELL)
        if line["out"]:
            self._shell.user_ns[identifier(line["out"], "variable name")] = self.last
            return
        if line["block"]:
            self.last.wait()
        results = self.last.results
        assert isinstance(results, CellResults)
        tell(self._screen(), results, again(line))
        if self.last.pending:
            print(f"[not done yet: {folding.names(self.last.pending)}]", file=sys.stderr)


def _file() -> TargetsFile:
    return TargetsFile(targets_path(os.environ))


def names() -> Iterator[str]:
    """The groups of targets.toml, for Tab. Raises TargetError."""
    yield from _file().groups


class Here:
    """Shows in the output of this shell's current cell; in a terminal, the progress is one line."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._id: str | None = None

    def text(self, name: str, text: str) -> None:
        print(text, end="", file=sys.stderr if name == "stderr" else sys.stdout, flush=True)

    def display(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self._shell.display_pub.publish(data, metadata)

    def live(self, words: str, over: bool) -> None:
        if getattr(self._shell, "kernel", None) is None:
            live_line(words, over)
            return
        update, self._id = self._id is not None, self._id or uuid.uuid4().hex
        self._shell.display_pub.publish({"text/plain": words}, transient={"display_id": self._id}, update=update)
