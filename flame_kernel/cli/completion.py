"""``jupyter flame completion``: Tab for commands, options, targets and kernels in bash, zsh and fish, by argcomplete.

The shell runs ``jupyter-flame`` with the line in environment variables, and reads the answer from a separate
descriptor (``offer``). Completions come from the commands' parsers and the targets file, so there
is no second list to maintain, and no connection is made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from argcomplete.completers import BaseCompleter, FilesCompleter, SuppressCompleter
from argcomplete.shell_integration import shellcode
from traitlets.config.argcomplete_config import ExtendedCompletionFinder, get_argcomplete_cwords
from traitlets.utils.importstring import import_item

from ..errors import FlameError
from ..terminal import plain_text
from .application import FlameApp
from .command import Command, CommandGroup
from .parser import Parser

PROGRAM = "jupyter-flame"
SHELLS = ("bash", "zsh", "fish")
# What ends a command in a shell's line. zsh gives us the whole line, including the commands before ours.
_ENDS = (";", "&", "|", "(")

# argcomplete's script completes `jupyter-flame`. These lines do the same for `jupyter flame`, and leave every other
# word of `jupyter` to whatever completed it before.
_BASH = """
_jupyter_flame() {
    if [[ "${COMP_WORDS[1]}" == flame && $COMP_CWORD -ge 2 ]]; then
        _python_argcomplete_jupyter-flame "$@"
    elif [[ -n "$_jupyter_flame_before" ]]; then
        "$_jupyter_flame_before" "$@"
    elif [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "flame " -- "$2"))
    fi
}
_jupyter_flame_before="$(complete -p jupyter 2>/dev/null | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')"
[[ "$_jupyter_flame_before" == _jupyter_flame ]] && _jupyter_flame_before=""
complete -o bashdefault -F _jupyter_flame jupyter
"""
_ZSH = """
_jupyter_flame() {
    if [[ "${words[2]}" == flame && $CURRENT -gt 2 ]]; then
        _python_argcomplete_jupyter-flame "$@"
    elif [[ -n "$_jupyter_flame_before" ]]; then
        "$_jupyter_flame_before" "$@"
    elif (( CURRENT == 2 )); then
        compadd flame
    fi
}
if [[ -n "${_comps[jupyter]}" && "${_comps[jupyter]}" != _jupyter_flame ]]; then
    _jupyter_flame_before="${_comps[jupyter]}"
fi
compdef _jupyter_flame jupyter
"""
_FISH = """
complete -c jupyter -n 'not __fish_seen_subcommand_from flame' -a flame -d 'Remote Flame'
complete -c jupyter -n '__fish_seen_subcommand_from flame' -f -a '(__fish_jupyter-flame_complete)'
"""
_JUPYTER = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class Completion(Command):
    """The script for a shell."""

    title = "completion"
    about = """
        Print the completion script for a shell. With it, Tab completes commands, options, and the names of targets,
        kernels and files, behind jupyter-flame and jupyter flame.
        """
    typed = """
        eval "$(jupyter flame completion bash)"        in ~/.bashrc
        eval "$(jupyter flame completion zsh)"         in ~/.zshrc, after compinit
        jupyter flame completion fish | source         in ~/.config/fish/config.fish
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))

    def run(self, options: argparse.Namespace) -> int | None:
        ours = shellcode([PROGRAM], use_defaults=False, shell=options.shell, argcomplete_script=PROGRAM)
        print(ours.strip() + "\n" + _JUPYTER[options.shell], end="")
        return None


def offer() -> None:
    """Tell the shell how the word at its cursor can be completed, and end this process."""
    words = get_argcomplete_cwords() or []
    behind = _behind(words)
    command, commands, used = _named(words[behind:])
    parser = command.parser()
    for action in parser._actions:
        completer = _completer(action)
        if completer is not None:
            action.completer = completer  # type: ignore[attr-defined]
    # argcomplete takes the word with this number for the program, and the words after it for its arguments.
    os.environ["_ARGCOMPLETE"] = str(int(os.environ["_ARGCOMPLETE"]) + behind - 1 + used)
    finder = _Finder()
    finder.config_classes = command.classes
    finder.subcommands = list(commands)
    finder.about = {name: about for name, (_, about) in commands.items()}
    finder(parser, always_complete_options=False, default_completer=SuppressCompleter())


class _Finder(ExtendedCompletionFinder):
    """traitlets' finder, which also knows subcommands and ``--Class.trait``."""

    about: dict[str, str]

    def match_class_completions(self, cword_prefix: str) -> list[tuple[Any, str]]:
        """Offer traits only if the user has begun to type one: there are many, and few users need them."""
        return super().match_class_completions(cword_prefix) if cword_prefix[2:3].isupper() else []

    def _get_completions(self, comp_words: list[str], cword_prefix: str, *args: Any) -> list[str]:
        found = super()._get_completions(comp_words, cword_prefix, *args)
        if len(comp_words) == 1:
            self._display_completions.update(self.about)
        return found


def _behind(words: Sequence[str]) -> int:
    """The index of the first word after ``jupyter-flame`` or ``jupyter flame`` in a line."""
    names = [PurePath(word).name for word in words]
    found = []
    for number, name in enumerate(names):
        if name == PROGRAM:
            found.append((number, number))
        elif name == "flame" and number and names[number - 1] == "jupyter":
            found.append((number - 1, number))
    begun = [end for start, end in found if not start or words[start - 1].endswith(_ENDS)]
    # Otherwise jupyter has removed its own name, and `flame` is the first word.
    return 1 + (begun[-1] if begun else found[0][1] if found else 0)


def _named(words: Sequence[str]) -> tuple[type[Command], Mapping[str, tuple[str, str]], int]:
    """The command that ``words`` name, the commands that can follow, and how many of the words name it."""
    command: type[Command] = FlameApp
    used = 0
    while issubclass(command, CommandGroup):
        commands = command.commands
        if used < len(words) and words[used] in commands:
            command = import_item(commands[words[used]][0])
            used += 1
            continue
        if command.other is None:
            return command, commands, used
        # A word that is no command is an argument of the default command.
        return import_item(commands[command.other][0]), commands, used
    return command, {}, used


def _completer(action: argparse.Action) -> BaseCompleter | None:
    """What completes an argument, chosen by its name in the help; None: argcomplete offers its choices, or nothing."""
    if action.choices:
        return None
    name = action.metavar if isinstance(action.metavar, str) else ""
    if action.dest in ("source", "destination") and name in ("SOURCE", "DEST"):
        return _Either(FilesCompleter(), _Names(lambda: [f"{one}:" for one in _targets()]))
    if action.dest in ("where", "target") or name == "TARGET":
        return _Names(_targets)
    if action.dest == "key":
        return _Names(lambda: ["keyring", "prompt", "env:"])
    if name == "KERNEL":
        return _Names(_kernels)
    if name in ("FILE", "FOLDER", "DIR", "SOURCE", "DEST", "ARGUMENT", "PATH"):
        return FilesCompleter()
    return None


class _Names(BaseCompleter):
    """Completes names, which are looked up only when needed."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names

    def __call__(self, **asked: Any) -> Iterable[str]:
        return [name for name in self._names() if name.startswith(asked["prefix"])]


class _Either(BaseCompleter):
    """Offers what several completers offer together."""

    def __init__(self, *completers: BaseCompleter) -> None:
        self._completers = completers

    def __call__(self, **asked: Any) -> Iterable[str]:
        return [found for completer in self._completers for found in completer(**asked)]


def _targets() -> Iterable[str]:
    with contextlib.suppress(FlameError):
        return [plain_text(name) for name in Command.targets().tables]
    return []


def _kernels() -> Iterable[str]:
    from . import kernelspec

    return [plain_text(one.name) for one in kernelspec.installed()]
