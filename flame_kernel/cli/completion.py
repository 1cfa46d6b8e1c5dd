"""``jupyter flame completion``: Tab in bash, zsh and fish for every command, option, target, kernel and session name.

The shells ask this program: what it knows is always right, and nothing has to be kept in step. Its answers are made of
the parsers of the commands and the targets file alone; nobody is connected to.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable
from typing import Any

from traitlets.utils.importstring import import_item

from ..errors import FlameError
from ..security.terminal import clean
from .command import Command, CommandGroup
from .index import COMMANDS

SHELLS = ("bash", "zsh", "fish")
# What a shell is told where a file can stand.
FILES = "\x1b[files]"

# bash: the function for `jupyter` hands on what is not ours to the one that was there before.
_BASH = """\
_jupyter_flame() {
    local cur="${COMP_WORDS[COMP_CWORD]}" first=1 line
    if [[ "${COMP_WORDS[0]##*/}" == jupyter ]]; then
        if [[ "${COMP_WORDS[1]}" != flame || $COMP_CWORD -lt 2 ]]; then
            if [[ -n "$_jupyter_flame_before" ]]; then "$_jupyter_flame_before" "$@"; return; fi
            [[ $COMP_CWORD -eq 1 ]] && COMPREPLY=($(compgen -W "flame" -- "$cur"))
            return
        fi
        first=2
    fi
    # Without the breaks that bash makes at : and =.
    local words=() joined="" text="${COMP_LINE:0:$COMP_POINT}"
    read -r -a words <<< "$text"
    [[ "$text" == *" " ]] && words+=("")
    cur="${words[-1]}"
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ "$line" == "[files]" ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r joined; do COMPREPLY+=("$joined"); done < <(compgen -f -- "$cur")
        else
            COMPREPLY+=("$line")
        fi
    done < <(jupyter-flame completion --words "${words[@]:$first}" 2>/dev/null)
    if [[ "$cur" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
        local prefix="${cur%"${cur##*:}"}" i
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[$i]="${COMPREPLY[$i]#"$prefix"}"; done
    fi
}
_jupyter_flame_before="$(complete -p jupyter 2>/dev/null | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')"
[[ "$_jupyter_flame_before" == _jupyter_flame ]] && _jupyter_flame_before=""
complete -F _jupyter_flame jupyter jupyter-flame
"""

_ZSH = """\
#compdef jupyter-flame
_jupyter_flame() {
    local first=2 line
    if [[ "${words[1]:t}" == jupyter ]]; then
        if [[ "${words[2]}" != flame || $CURRENT -lt 3 ]]; then
            if [[ -n "$_jupyter_flame_before" ]]; then "$_jupyter_flame_before" "$@"; return; fi
            (( CURRENT == 2 )) && compadd flame
            return
        fi
        first=3
    fi
    local -a found
    for line in "${(@f)$(jupyter-flame completion --words "${(@)words[$first,$CURRENT]}" 2>/dev/null)}"; do
        if [[ "$line" == "[files]" ]]; then _files; elif [[ -n "$line" ]]; then found+=("$line"); fi
    done
    (( $#found )) && compadd -a found
}
if [[ -n "${_comps[jupyter]}" && "${_comps[jupyter]}" != _jupyter_flame ]]; then
    _jupyter_flame_before="${_comps[jupyter]}"
fi
compdef _jupyter_flame jupyter jupyter-flame
"""

_FISH = """\
function __jupyter_flame
    set -l words (commandline -opc) (commandline -ct)
    set -l first 2
    if string match -q -r '(^|/)jupyter$' -- $words[1]
        set first 3
    end
    for line in (jupyter-flame completion --words $words[$first..-1] 2>/dev/null)
        if test "$line" = "[files]"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c jupyter -n 'not __fish_seen_subcommand_from flame' -a flame -d 'Remote Flame'
complete -c jupyter -n '__fish_seen_subcommand_from flame' -f -a '(__jupyter_flame)'
complete -c jupyter-flame -f -a '(__jupyter_flame)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class Completion(Command):
    """The script for a shell, and its questions."""

    title = "completion"
    about = """
        Print what makes Tab work in a shell: commands, options, and the names of targets and kernels.
        """
    typed = """
        eval "$(jupyter flame completion bash)"        in ~/.bashrc
        eval "$(jupyter flame completion zsh)"         in ~/.zshrc, behind compinit
        jupyter flame completion fish | source         in ~/.config/fish/config.fish
        """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", nargs="?", choices=SHELLS, help="which one")
        parser.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

    def run(self, options: argparse.Namespace) -> int | None:
        if options.words is not None:
            for line in self.complete(options.words):
                print(line)
            return None
        if options.shell is None:
            self._fail(f"name a shell: {', '.join(SHELLS)}", 2)
        print(_SCRIPTS[options.shell], end="")
        return None

    def complete(self, words: list[str]) -> list[str]:
        """What the last of ``words``, those behind ``jupyter flame``, can become."""
        *before, current = words or [""]
        commands = COMMANDS
        while before and before[0] in commands:
            command = import_item(commands[before.pop(0)][0])
            if not issubclass(command, CommandGroup):
                return _begin(current, self._of_command(command, before, current))
            commands = command.commands
            if command.other and (not before or before[0] not in commands):
                other = import_item(commands[command.other][0])
                found = self._of_command(other, before, current)
                return _begin(current, found if before else [*commands, *found])
        return [] if before else _begin(current, commands)

    def _of_command(self, command: type[Command], before: list[str], current: str) -> Iterable[str]:
        parser = command.parser()
        flags = {flag: action for action in parser._actions for flag in action.option_strings}
        shown = [flag for flag, action in flags.items() if action.help != argparse.SUPPRESS]
        words, last = [], None
        for word in before:
            if last is not None:
                last = None
            elif word in flags:
                last = flags[word] if _takes_value(flags[word]) else None
            elif not word.startswith("-") or word == "-":
                words.append(word)
        if last is not None:
            return self._values(last)
        if current.startswith("-"):
            return [flag for flag in shown if flag.startswith("--") or len(current) == 1]
        places = [action for action in parser._actions if not action.option_strings]
        if not places:
            return ()
        return self._values(places[min(len(words), len(places) - 1)])

    def _values(self, action: Any) -> Iterable[str]:
        """What can stand for an argument, by what its help calls it."""
        if action.choices:
            return [str(choice) for choice in action.choices]
        name = action.metavar if isinstance(action.metavar, str) else ""
        if action.dest in ("where", "target") or name == "TARGET":
            return self._targets()
        if action.dest == "key":
            return ["keyring", "prompt", "env:"]
        if name == "KERNEL":
            return [one.name for one in _kernels()]
        if name in ("FILE", "FOLDER", "DIR", "SOURCE", "DEST", "ARGUMENT", "PATH"):
            return [FILES]
        return ()

    def _targets(self) -> list[str]:
        with contextlib.suppress(FlameError):
            return [clean(name) for name in self.targets().tables]
        return []


def _kernels() -> Iterable[Any]:
    from . import kernelspec

    return kernelspec.installed()


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _begin(current: str, found: Iterable[str]) -> list[str]:
    return [one.removeprefix("\x1b") for one in found if one == FILES or one.startswith(current)]
