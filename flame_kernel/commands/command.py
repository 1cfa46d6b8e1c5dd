"""The entries of the table of ``%flame`` commands, which is in ``language.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .options import FACES, MAGICS, Option

ONE, MAYBE, SOME, ANY = "one", "maybe", "some", "any"  # how many words an argument is: 1, 0 or 1, 1 or more, 0 or more


@dataclass(frozen=True)
class Argument:
    """One argument of a command: ``name`` names its value; ``tab`` says what Tab offers (see ``tab.py``)."""

    name: str
    metavar: str
    help: str
    count: str = ONE
    tab: tuple[str, ...] = ()
    kind: type = str
    faces: tuple[str, ...] = FACES

    @property
    def written(self) -> str:
        """As it is written in a usage: ``[WHERE]``, ``SRC…``."""
        return {
            ONE: self.metavar,
            MAYBE: f"[{self.metavar}]",
            SOME: f"{self.metavar}…",
            ANY: f"[{self.metavar}…]",
        }[self.count]


@dataclass(frozen=True)
class Command:
    """One command.

    brief    what it does, in one line
    more     further sentences of the help
    examples lines that can be typed as they stand
    instead  by face where it makes no sense: what to do there; ``{rest}`` stands for the rest of the line
    code     its argument is code: what follows the options is taken as it stands
    passes   it changes nothing that cells see, so in the kernel it need not wait for the running one
    moves    it changes where the kernel's cells run
    expands  {name} and $name in its line stand for variables of the notebook, as in other magics
    """

    name: str
    brief: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    more: str = ""
    examples: tuple[str, ...] = ()
    instead: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    code: bool = False
    passes: bool = False
    moves: bool = False
    expands: bool = False

    @property
    def title(self) -> str:
        """As it stands at the beginning of a line."""
        return self.name if self.name.startswith("%") else f"%flame {self.name}"

    @property
    def faces(self) -> tuple[str, ...]:
        """The faces where it makes sense."""
        return tuple(face for face in FACES if face not in self.instead)

    def options_in(self, face: str) -> tuple[Option, ...]:
        return tuple(option for option in self.options if face in option.faces)

    def arguments_in(self, face: str) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if face in argument.faces)


ON_CONNECTION = Option(
    ("-t", "--target"),
    "the connection's name (default: the current one)",
    "TARGET",
    tab=("connection",),
    faces=(MAGICS,),
)
