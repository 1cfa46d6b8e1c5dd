"""The parser of a command: its help begins with what users type most, and each mistake gets one sentence."""

from __future__ import annotations

import argparse
import difflib
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..commands.options import ALIKE
from ..terminal import WIDTH
from .index import paragraphs


class Parser(argparse.ArgumentParser):
    """The parser of the command ``title``; its help has ``about`` and ``examples``.

    ``--help`` names the options of a `shared` group in one paragraph, ``--help-all`` explains each.
    """

    def __init__(self, title: str, about: str, examples: str = "") -> None:
        super().__init__(
            prog=f"jupyter flame {title}".strip(),
            description=about,
            formatter_class=_Formatter,
            allow_abbrev=False,
            add_help=False,
        )
        self._examples = textwrap.dedent(examples).strip().splitlines()
        self._shared: list[Any] = []
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
        self.add_argument("--help-all", action=_HelpAll, nargs=0, help=argparse.SUPPRESS)

    def shared(self, title: str) -> Any:
        """A group of options that many commands have."""
        group = self.add_argument_group(title)
        self._shared.append(group)
        return group

    def say_usage(self) -> None:
        """Make the usage one line that shows only the positional arguments."""
        bare = argparse.ArgumentParser(prog=self.prog, add_help=False)
        for action in self._actions:
            if not action.option_strings:
                bare._add_action(action)
        self.usage = f"{self.prog} [options]{bare.format_usage().removeprefix(f'usage: {self.prog}').rstrip()}"

    def format_help(self) -> str:
        """The help, with only the names of shared options."""
        return self._help(everything=False)

    def _help(self, everything: bool) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        parts = [formatter.format_help(), paragraphs(self.description or "") + "\n"]
        if self._examples:
            parts.append("\n".join(["examples:", *(f"  {line}" for line in self._examples)]) + "\n")
        groups = [group for group in self._action_groups if everything or group not in self._shared]
        formatter = self._get_formatter()
        for group in groups:
            formatter.start_section(group.title)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        parts.append(formatter.format_help())
        if not everything:
            parts += [_in_short(group) for group in self._shared]
            parts.append(f"{self.prog} --help-all explains every option.\n")
        return "\n".join(part for part in parts if part.strip())

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Like argparse's, with a suggestion for unknown words."""
        options, left = self.parse_known_args(args, namespace)
        if left:
            flags = [word.partition("=")[0] for word in left if word.startswith("-") and word != "-"]
            if flags:
                known = [flag for action in self._actions for flag in action.option_strings]
                self.error(f"there is no option {flags[0]}{meant(flags[0], known)}")
            last = next((one for one in self._actions if not one.option_strings and one.nargs in ("*", "+")), None)
            if last is not None:  # argparse takes such words in one piece only, and not behind an option
                setattr(options, last.dest, [*getattr(options, last.dest), *left])
                return options
            self.error(f"one word too many: {left[0]!r}" if len(left) == 1 else f"words too many: {' '.join(left)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Say in one sentence what is wrong with the command line, and exit with 2."""
        end = "" if message.endswith(("?", ";")) else ";"
        self.exit(2, f"{self.prog}: {message}{end} {self.prog} --help tells more\n")


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, *args: Any) -> None:
        print(parser._help(everything=True), end="")
        parser.exit()


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown ``word``: asks whether a similar known one was meant."""
    names = {one.lstrip("-"): one for one in known}  # without the dashes, which make all options similar
    like = difflib.get_close_matches(word.lstrip("-"), names, 1, ALIKE)
    return f". Did you mean {names[like[0]]}?" if like else ";"


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, WIDTH))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """``-t, --target TARGET``: the value once, as in Python 3.13."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def _in_short(group: Any) -> str:
    flags: Sequence[str] = [
        action.option_strings[-1] for action in group._group_actions if action.help != argparse.SUPPRESS
    ]
    filled = textwrap.fill(", ".join(flags), WIDTH - 2, break_on_hyphens=False)
    return f"{group.title}:\n" + textwrap.indent(filled, "  ") + "\n"
