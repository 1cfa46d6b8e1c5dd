"""How the way to a server is protected, as options of a command: of ``%flame connect``, and of the command line.

Each is a flag and what argparse is to be told about it; ``protection`` makes of the values what ``load_target`` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--ssh", {"metavar": "USER@HOST", "help": "reach WHERE from that machine, by ssh; as ssh://USER@HOST/PORT does"}),
    ("--tls", {"action": "store_true", "help": "speak TLS; you are asked about the certificate at the first contact"}),
    ("--tls-ca", {"metavar": "FILE", "help": "TLS, with a certificate of this CA (PEM); or: system"}),
    ("--tls-pin", {"metavar": "SHA256", "help": "TLS, with the certificate of this fingerprint"}),
    ("--tls-cert", {"metavar": "FILE", "help": "your own certificate, for a server that wants one (PEM)"}),
    ("--tls-key", {"metavar": "FILE", "help": "its private key, mode 0600, if it is not in the same file"}),
    ("--tls-name", {"metavar": "NAME", "help": "the name in the server's certificate, if it is not that of the host"}),
    ("--tls-no-verify", {"action": "store_true", "help": "TLS with whoever answers: for a test on a desk"}),
    ("--ns-key-file", {"metavar": "FILE", "help": "the key of the name server, for ns:NAME; a file of mode 0600"}),
    ("--allow-plain", {"action": "store_true", "help": "a link that others can read, off this machine, with a key"}),
    ("--insecure", {"action": "store_true", "help": "… and without a key, which others can use too"}),
)

_TLS = {
    "tls_ca": "ca",
    "tls_pin": "pin",
    "tls_cert": "certificate",
    "tls_key": "key_file",
    "tls_name": "server_name",
}


def protection(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that these options stand for: ``values`` by their names in a namespace, others passed over."""
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


NAMES = frozenset(flag.removeprefix("--").replace("-", "_") for flag, _ in OPTIONS)


def help_lines(indent: str = "    ") -> str:
    """The options for a help text, one a line."""
    return "\n".join(f"{indent}{flag:<16} {about['help']}" for flag, about in OPTIONS)
