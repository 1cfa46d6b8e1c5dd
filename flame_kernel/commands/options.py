"""The options of commands: their names, values and help.

The options of a connection have the same names for ``%flame connect``, in both faces, and on the command line.
``settings`` turns their values into those for ``load_target``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..connect.target import PLACES, SHELLS, Timeouts
from ..errors import TargetError

# Who reads a line: the Remote Flame kernel, or the magics of %load_ext flame.
KERNEL, MAGICS = "kernel", "magics"
FACES = (KERNEL, MAGICS)
# From which ratio of difflib on an unknown word is taken for a known one that is spelt wrong.
ALIKE = 0.7


@dataclass(frozen=True)
class Option:
    """One option of a command.

    flags    as they are written; the last one names its value (``name``)
    metavar  the placeholder for its value; empty for a switch, which has none
    kind     str, int or float
    tab      what Tab offers for the value: see ``tab.py``
    group    options of one group exclude each other
    many     it may be given several times; the value is then a list
    faces    in which faces it makes sense
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    kind: type = str
    tab: tuple[str, ...] = ()
    group: str = ""
    many: bool = False
    faces: tuple[str, ...] = FACES

    @property
    def name(self) -> str:
        return self.flags[-1].lstrip("-").replace("-", "_")

    @property
    def written(self) -> str:
        """As it is written in a help text: ``-t, --target TARGET``."""
        return ", ".join(self.flags) + (f" {self.metavar}" if self.metavar else "")

    @property
    def empty(self) -> Any:
        """Its value if it is not given."""
        return [] if self.many else None if self.metavar else False

    def add_to(self, parser: Any, **changes: Any) -> None:
        """Add it to an argparse parser, or a group of one."""
        about: dict[str, Any] = {"help": self.help.replace("%", "%%")}
        if not self.metavar:
            about["action"] = "store_true"
        elif self.many:
            about |= {"action": "append", "default": [], "metavar": self.metavar}
        else:
            about |= {"choices": self.choices or None, "metavar": None if self.choices else self.metavar}
            about |= {} if self.kind is str else {"type": self.kind}
        parser.add_argument(*self.flags, **(about | changes))


KEY_FILE = Option(("--key-file",), "the server's key, in a file of mode 0600", "FILE", tab=("here",), group="key")
KEY = Option(("--key",), "where its key is: keyring, prompt (you are asked), or env:NAME", "SOURCE", group="key")
PLACE = Option(
    ("--place",), "where code runs there: in the server's process, a child of it, or its main thread", "PLACE", PLACES
)
SESSION = Option(("--session",), "a name under which the session can be found again", "NAME", tab=("session",))
SHELL = Option(("--shell",), "with IPython, or with our own small shell (mini)", "SHELL", SHELLS)
TRUST = Option(("--trust",), "let this server run code here (pickles)")
RICH = Option(("--rich",), "show this server's HTML and widgets though it has no key (no pickles)")
TIMEOUT = Option(("--timeout",), "seconds that connecting may take", "S", kind=float)
CONFIG = Option(("--config",), "another file than the usual targets.toml", "FILE", tab=("here",))

# How the way to the server is protected.
OPTIONS: tuple[Option, ...] = (
    Option(("--ssh",), "reach WHERE from that machine, by ssh; as ssh://USER@HOST/PORT does", "USER@HOST"),
    Option(("--tls",), "speak TLS; you are asked about the certificate at the first contact"),
    Option(("--tls-ca",), "TLS, with a certificate of this CA (PEM); or: system", "FILE", tab=("here",)),
    Option(("--tls-pin",), "TLS, with the certificate of this fingerprint", "SHA256"),
    Option(("--tls-cert",), "your own certificate, for a server that wants one (PEM)", "FILE", tab=("here",)),
    Option(("--tls-key",), "its private key, mode 0600, if it is not in the same file", "FILE", tab=("here",)),
    Option(("--tls-name",), "the name in the server's certificate, if it is not that of the host", "NAME"),
    Option(("--tls-no-verify",), "TLS without checking the certificate (tests only)"),
    Option(("--ns-key-file",), "the key of the name server, for ns:NAME; a file of mode 0600", "FILE", tab=("here",)),
    Option(("--allow-plain",), "allow a link without encryption (key required)"),
    Option(
        ("--insecure",),
        "allow one without encryption and without a key: anyone on the network can use the server",
    ),
)

# Those of a connection, in the order of the help.
CONNECTION: tuple[Option, ...] = (KEY_FILE, KEY, PLACE, SESSION, SHELL, TRUST, RICH, TIMEOUT, CONFIG, *OPTIONS)

_TLS = {
    "tls_ca": "ca",
    "tls_pin": "pin",
    "tls_cert": "certificate",
    "tls_key": "key_file",
    "tls_name": "server_name",
}


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for the options of a connection; TargetError for an unusable time."""
    names = ("key_file", "key", "place", "session", "shell", "trust", "rich", "config")
    found = {name: values[name] for name in names if values.get(name)}
    seconds = values.get("timeout")
    if seconds is not None:
        if not 0 < seconds < float("inf"):
            raise TargetError(f"--timeout is a number of seconds above 0, not {seconds:g}")
        found["timeouts"] = Timeouts(connect=seconds)
    return found | protection(values)


def protection(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for ``OPTIONS``: ``values`` are by their names in a namespace; others are ignored."""
    found: dict[str, Any] = {}
    tls = {setting: values[option] for option, setting in _TLS.items() if values.get(option) is not None}
    if values.get("tls_no_verify"):
        tls["verify"] = False
    if tls or values.get("tls"):
        found["tls"] = tls
    if values.get("ssh"):
        found["ssh"] = values["ssh"]
    if values.get("ns_key_file"):
        found["ns_key_file"] = values["ns_key_file"]
    for name in ("allow_plain", "insecure"):
        if values.get(name):
            found[name] = True
    return found
