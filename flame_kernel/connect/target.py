"""Where and how to connect: a frozen `Target`, made from arguments, the environment and ``targets.toml``.

``load_target`` looks in this order, and uses the first that names a server:

1. its argument: ``host:port``, ``ssh://user@host/9999``, ``./u:path``, or the name of a target in the file;
2. ``FLAME_TARGET``, when ``FLAME_KERNELSPEC`` marks the environment as that of an installed kernelspec;
3. the ``default`` of ``targets.toml`` (see ``targets_file.py``);
4. ``FLAME_TARGET`` in any other environment;
5. ``target`` of the settings in ``jupyter_flame_config.py`` (``settings.py``).

If none names a server, the location is None, and the kernel starts a server of its own (``serve/embedded.py``).
The environment has settings, too: FLAME_KEY_FILE, FLAME_PLACE, FLAME_SESSION, FLAME_SHELL and so on. FLAME_NS is the
name server for ``ns:NAME``; without it PYRO_NS_HOST and PYRO_NS_PORT are used, and then the one on this machine.

Credentials belong to a server. The credentials of a target in the file are used for its location, whether the user
gives the name or the location. FLAME_KEY_FILE is used only for the server that FLAME_TARGET names.

Bad input raises TargetError: one sentence with the next step.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import TargetError
from ..security.rendering import FULL, SAFE, Rendering
from .keys import Ask, Secret, from_source, read_key
from .location import Location, name_server
from .rails_table import Rails, check_option
from .ssh import Tunnel
from .ssh_port import tunnel_to
from .targets_file import SETTINGS, TargetsFile, check_tls, check_value, configuration_folder, located, targets_path
from .tls import Tls

__all__ = [
    "PLACES",
    "PLACE_WORDS",
    "SHELLS",
    "WHEN_FULL",
    "Ask",
    "Location",
    "Secret",
    "Target",
    "Timeouts",
    "load_target",
    "read_key",
]

PLACES = ("auto", "process", "child", "main")
# Where cells run, as the banner and the status say it.
PLACE_WORDS = {
    "child": "in a child process of the server",
    "process": "inside the server's own process",
    "main": "on the server's main thread",
}
# For a session in which no cell runs, such as one for files: it starts no process there, and no IPython.
LIGHT: Mapping[str, Any] = MappingProxyType({"place": "process", "shell": "mini"})
SHELLS = ("auto", "ipython", "mini")
WHEN_FULL = ("drop", "block")

KNOWN_SERVERS = "flame_known_servers"  # in the configuration folder: fingerprints accepted at first contact

_SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Timeouts:
    """Time limits in seconds; each one covers the whole step."""

    connect: float = 10.0  # from looking up the name to the end of the handshake
    call: float = 30.0
    poll: float = 25.0  # how long the server may hold a poll that has no news
    poll_deadline: float = 35.0  # how long we wait for the answer to a poll
    login: float = 40.0  # of ssh, with jump hosts; the ssh host must answer within `connect`

    @classmethod
    def fast(cls) -> Timeouts:
        """Timeouts that detect a dead connection within 15 s."""
        return cls(connect=4.0, call=8.0, poll=5.0, poll_deadline=10.0)


@dataclass(frozen=True)
class Target:
    """One server and how to use it. ``location`` None means a server that the kernel starts itself."""

    location: Location | None = None
    key: Secret | None = None
    place: str = "auto"
    session: str | None = None
    timeouts: Timeouts = Timeouts()
    name: str | None = None
    shell: str = "auto"
    trust: bool = False  # the user allows this server to send objects that run code here (pickles)
    rich: bool = False  # the user allows rich output of this server: HTML, JavaScript and widgets
    own: bool = False  # a server that we started ourselves, for this session
    tls: Tls | None = None  # None: no TLS
    allow_plain: bool = False  # the user allows an unencrypted connection to another machine
    insecure: bool = False  # the user allows a connection without encryption and without a key
    ns_key: Secret | None = None  # the name server's key, if the location is a name
    sought: Location | None = field(default=None, compare=False)  # the ns:NAME, once it is found
    linger: float | None = None  # seconds that the session lives without a client; None: the agent's default
    journal: int | None = None  # bytes of unread output that the server keeps; None: the agent's default
    when_full: str | None = None  # "drop" or "block"; None: the agent's default
    rails: Rails | None = None  # what the user does not want to do there by mistake
    hot: Sequence[str] = ()  # folders of this machine whose modules can be imported there
    hot_reload: bool = False  # those that were edited are reloaded before the next cell
    forward: bool = True  # ports of either side may be reached from the other one, through the link
    fast: bool = False  # detect dead connections sooner
    warnings: tuple[str, ...] = field(default=(), compare=False)  # sentences for the user
    ask: Ask | None = field(default=None, compare=False, repr=False)  # asks the user what must be typed
    tunnel: Tunnel | None = field(default=None, compare=False, repr=False)  # made here, shared by copies

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise TargetError(f"place {self.place!r} is unknown; choose one of {', '.join(PLACES)}")
        if self.shell not in SHELLS:
            raise TargetError(f"shell {self.shell!r} is unknown; choose one of {', '.join(SHELLS)}")
        if self.when_full is not None and self.when_full not in WHEN_FULL:
            raise TargetError(f"when_full {self.when_full!r} is unknown; choose one of {', '.join(WHEN_FULL)}")
        if self.session is not None and not _SESSION_NAME.fullmatch(self.session):
            raise TargetError(f"session {self.session!r} is not a usable name; use up to 64 letters, digits and _ . -")
        ssh = self.location is not None and self.location.ssh is not None
        if self.tunnel is None or self.tunnel.location != self.location:
            object.__setattr__(self, "tunnel", self._way() if ssh else None)

    def _way(self) -> Tunnel | None:
        proved = self.key is not None or bool(self.tls and self.tls.verify)
        return tunnel_to(self.location, look=not proved) if self.location else None

    def __str__(self) -> str:
        where = str(self.location) if self.location else "its own local server"
        return f"{self.name} ({where})" if self.name else where

    @property
    def keeping(self) -> dict[str, Any]:
        """The settings for the agent about how long to keep the session and its output."""
        options = {"linger": self.linger, "journal": self.journal, "when_full": self.when_full}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def _is_elsewhere(self) -> bool:
        """True if the server is on another machine and not reached through ssh."""
        return self.location is not None and not self.location.is_loopback and self.location.ssh is None

    @property
    def is_private(self) -> bool:
        """True if nobody on the network can read the traffic: this machine, ssh, or verified TLS."""
        return not self._is_elsewhere or (self.tls is not None and self.tls.verify)

    @property
    def is_authenticated(self) -> bool:
        """True if the server proves its identity: by the key, by TLS, or because we started it.

        ssh proves which machine it is, but not which user listens on a port there. It is enough for a socket in a
        folder that only our user can enter; this is known after ssh has logged in.
        """
        if self.own or self.location is None or self.key is not None or bool(self.tls and self.tls.verify):
            return True
        return self.tunnel is not None and self.tunnel.is_ours

    @property
    def rendering_level(self) -> str:
        """``full`` or ``safe``: how much of what this server sends is shown; see ``rendering``."""
        return FULL if self.is_authenticated or self.trust or self.rich else SAFE

    def rendering(
        self,
        say: Callable[[str | None, str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        notebook: bool = False,
    ) -> Rendering:
        """The filter for what one session shows, by what this target allows; ``say`` is told what is withheld.

        ``notebook``: the front end can show HTML and widgets.
        """
        name = "" if self.own else self.name or str(self.location or "")
        hint = self._hint if notebook else ""
        return Rendering(self.rendering_level, name, str(self.location), say, clock, hint)

    @property
    def _hint(self) -> str:
        """A sentence: why rich output of this server is not shown, and what to do."""
        ssh = self.location is not None and self.location.ssh is not None
        ways = "--key-file or --rich" if ssh else "--key-file, ssh:// or --rich"
        return f"HTML and widgets are off: this server has no key; %flame connect with {ways}"

    @property
    def protection(self) -> str:
        """What protects the connection, in a few words: ``ssh, key``, ``TLS``, ``plain, no key``."""
        words = []
        if self.location is not None and self.location.ssh is not None:
            words.append("ssh")
        if self.tls is not None:
            words.append("TLS" if self.tls.verify else "TLS without a certificate check")
            if self.tls.certificate is not None:
                words.append("certificate")
        elif self._is_elsewhere:
            words.append("plain")
        if self.key is not None or not words or words == ["plain"]:
            words.append("key" if self.key is not None else "no key")
        return ", ".join(words)

    def check_exposure(self) -> None:
        """Raise TargetError if others could read or use the connection and the user has not allowed that."""
        if self.is_private or self.insecure:
            return
        if self.key is None:
            fault, allow = "have neither encryption nor a key", "--insecure (insecure=True)"
        elif self.tls is None and not self.allow_plain:
            fault, allow = "not be encrypted, so others could read and replay it", "--allow-plain (allow_plain=True)"
        else:
            return
        host = self.location.host if self.location else None
        meant = " (did you mean localhost?)" if difflib.get_close_matches(host or "", ["localhost"], 1, 0.8) else ""
        better = f"reach it by ssh://user@{host}/{self.location.port}, or by TLS" if self.location else ""
        raise TargetError(
            f"{self.location} is another machine{meant}, and the connection would {fault}; {better}; or say {allow}"
        )

    def cautions(self) -> tuple[str, ...]:
        """Warnings to show whenever a session is opened: what is unsafe about the connection, and ``warnings``."""
        checked = self.key is not None or (self.tls is not None and self.tls.certificate is not None)
        said = self.tunnel.cautions(self.is_authenticated, checked) if self.tunnel else []
        place = self.location
        if self.tls is not None and not self.tls.verify:
            said.append(
                f"TLS to {place} does not check the certificate (verify = false): anyone in "
                "between can read and change what is sent"
            )
        elif not self.is_private:
            if self.key is None:
                said.append(
                    f"the link to {place} is not encrypted and has no key: anyone on the "
                    "network can read it and run code there"
                )
            else:
                said.append(
                    f"the link to {place} is not encrypted: anyone on the network can read it, and replay what was sent"
                )
        elif self._is_elsewhere and self.key is None and self.tls is not None and self.tls.certificate is None:
            said.append(f"the server at {place} asks for neither key nor certificate: anyone who reaches it can use it")
        return (*said, *self.warnings)


# Settings that the environment may have as FLAME_<NAME>. Those that weaken protection are not among them.
_FROM_ENVIRON = ("key_file", "ns_key_file", "place", "session", "shell", "linger", "journal", "when_full", "fast")
_OVERRIDES = (*SETTINGS, "insecure", "timeouts", "config")
# Settings that belong to the server itself: they are used for its location, too, not only for its name.
_CREDENTIALS = ("key", "tls", "allow_plain", "rails")
_KEY_OF_NOTHING = "FLAME_KEY_FILE is not used: it is the key of the server in FLAME_TARGET, which is not set"
# Settings that a Target does not store as they are: it has the key, location or Tls made from them.
_READ = ("key", "key_file", "ns_key_file", "tls", "ssh")


def load_target(
    name_or_location: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config_dir: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    ask: Ask | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Target:
    """The target to use, found in the order above; raises TargetError.

    config_dir  Jupyter's configuration folder
    overrides   settings as in targets.toml that win over all others; None means not given. ``key`` may be a Secret,
                and ``tls`` is merged with the target's. It may also have ``insecure``, ``timeouts`` (a Timeouts), and
                ``config``, the path of another targets.toml
    ask         asks the user for a key, for ssh's password, or whether to trust a new certificate
    defaults    settings for what nothing else sets, as strings; ``target`` may be among them
    """
    environ = os.environ if environ is None else environ
    defaults = defaults or {}
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    file = _targets_file(given.pop("config", None), environ, config_dir)
    for unknown in given.keys() - set(_OVERRIDES):
        check_option(unknown, file.path)
        raise TargetError(f"{unknown!r} is not a setting of a target; there are {', '.join(_OVERRIDES)}")
    ours = _Environ.read(environ)
    chosen = name_or_location or ours.chosen(file.default, defaults.get("target"))
    name, location, settings = None, None, ours.settings
    warnings: tuple[str, ...] = ()
    if chosen is not None:
        name, location, table = look_up(chosen, file, given.pop("ssh", None))
        settings, warnings = ours.joined(table, location, file, given, wins=ours.is_kernelspec and not name_or_location)
    settings = _from_defaults(defaults) | settings
    settings |= _from_overrides(given, settings)
    if location is None:
        return Target(name=name, ask=ask, warnings=warnings, **_others(settings))
    key, more = _key(settings.get("key"), name or str(location), environ, ask)
    ns_key = None
    if location.name:
        location = _with_name_server(location, environ)
        ns_key = _ns_key(settings.get("ns_key_file"))
    tls = None
    if settings.get("tls") is not None:
        tls = Tls(**settings["tls"], known=configuration_folder(environ, config_dir) / KNOWN_SERVERS)
    warnings = (*warnings, *more)
    return Target(location, key, name=name, tls=tls, ns_key=ns_key, ask=ask, warnings=warnings, **_others(settings))


def usual_target(
    defaults: Mapping[str, Any], environ: Mapping[str, str] | None = None, config_dir: Path | None = None
) -> str | None:
    """The name or location of the target, or group, that is used where none is named. Raises TargetError."""
    environ = os.environ if environ is None else environ
    return _Environ.read(environ).chosen(_targets_file(None, environ, config_dir).default, defaults.get("target"))


def _targets_file(named: str | None, environ: Mapping[str, str], config_dir: Path | None) -> TargetsFile:
    """The targets file that is ``named``, which must exist, or else the usual one, which may be missing."""
    if named is None:
        return TargetsFile(targets_path(environ, config_dir))
    path = Path(os.path.expanduser(named))
    if not path.exists():
        raise TargetError(f"there is no configuration file {path}; name one that is there")
    return TargetsFile(path)


@dataclass(frozen=True)
class _Environ:
    """The settings in the environment: FLAME_TARGET, its key, and others."""

    target: str | None
    is_kernelspec: bool  # of an installed kernelspec: FLAME_TARGET then wins over the default in the file
    key: str | None
    settings: dict[str, Any]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> _Environ:
        settings = _from_environ(environ)
        key = settings.pop("key", None)
        return cls(environ.get("FLAME_TARGET") or None, bool(environ.get("FLAME_KERNELSPEC")), key, settings)

    def chosen(self, files_default: str | None, configured: str | None) -> str | None:
        """The target to use if the user names none."""
        names = (self.target, files_default) if self.is_kernelspec else (files_default, self.target)
        return next((name for name in (*names, configured) if name), None)

    def joined(
        self, table: dict[str, Any], location: Location, file: TargetsFile, given: Mapping[str, Any], *, wins: bool
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """These settings merged with ``table``, those of a target in the file; and warnings.

        If both have a setting, the environment's is used if ``wins``, else the file's. The key in the environment is
        used only for the server that FLAME_TARGET names.
        """
        settings = table | self.settings if wins else self.settings | table
        if self.key is None:
            return settings, ()
        if self.target is not None:
            with contextlib.suppress(TargetError):  # FLAME_TARGET may be invalid; the user asked for another target
                if (wins or "key" not in settings) and look_up(self.target, file, None)[1] == location:
                    settings["key"] = self.key
        elif not {"key", "key_file"} & (settings.keys() | given.keys()):
            return settings, (_KEY_OF_NOTHING,)
        return settings, ()


def _from_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: check_value(key, value, SETTINGS[key], "the configuration")
        for key, value in defaults.items()
        if key != "target"
    }


def _others(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a Target has under their own names."""
    names = [*(name for name in SETTINGS if name not in _READ), "insecure", "timeouts"]
    found = {name: settings[name] for name in names if name in settings}
    if found.get("fast"):
        found.setdefault("timeouts", Timeouts.fast())
    if "hot" in settings:
        found["hot"] = tuple(check_value("a folder in hot", one, str, "the target") for one in settings["hot"])
    if "rails" in settings:
        found["rails"] = Rails(**settings["rails"])
    return found


def _with_name_server(location: Location, environ: Mapping[str, str]) -> Location:
    """``location``, which is a name, with the usual name server if it has none."""
    if location.host or location.path or location.ssh is not None:
        return location
    server = usual_name_server(environ)
    return Location(server.host, server.port, server.path, name=location.name)


def usual_name_server(environ: Mapping[str, str]) -> Location:
    """The name server to ask if the user names none; raises TargetError."""
    place = environ.get("FLAME_NS")
    if not place and (environ.get("PYRO_NS_HOST") or environ.get("PYRO_NS_PORT")):
        host = environ.get("PYRO_NS_HOST") or "localhost"
        port = environ.get("PYRO_NS_PORT")
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    return name_server(place or "localhost")


def _key(
    given: Secret | str | None, name: str, environ: Mapping[str, str], ask: Ask | None
) -> tuple[Secret | None, tuple[str, ...]]:
    if given is None:
        return None, ()
    key, warnings = (given, ()) if isinstance(given, Secret) else from_source(given, name, environ=environ, ask=ask)
    if not key.reveal():
        raise TargetError("the key given is empty, which to Pyro means no key at all; give the server's PYRO_HMAC_KEY")
    return key, warnings


def _ns_key(file: str | None) -> Secret | None:
    return read_key(Path(os.path.expanduser(file)))[0] if file else None


def look_up(chosen: str, file: TargetsFile, ssh: str | None) -> tuple[str | None, Location, dict[str, Any]]:
    """A target's name, location and settings. For a location without a name: what the file has for that server. Raises
    TargetError."""
    if chosen in file.tables:
        table = dict(file.tables[chosen])
        own = table.pop("ssh", None)
        return chosen, located(table.pop("location"), ssh or own), table
    if chosen in file.groups:
        raise TargetError(
            f"{chosen} is a group of servers, and one is wanted here; name one of {', '.join(file.groups[chosen])}, "
            f"or run cells on all of them by %%flame -t {chosen} (%load_ext flame) or flame.group({chosen!r})"
        )
    if ":" not in chosen:
        known = f"it has {', '.join(sorted(file.tables))}" if file.tables else "it has none"
        raise TargetError(
            f"there is no target {chosen!r} in {file.path} ({known}); name one of those or give host:port"
        )
    location = located(chosen, ssh)
    found: dict[str, Any] = {}
    first = ""
    for name, table in file.tables.items():
        if located(table["location"], table.get("ssh")) != location:
            continue
        credentials = {key: table[key] for key in _CREDENTIALS if key in table}
        if credentials.get("key") == "keyring":
            credentials["key"] = f"keyring:{name}"
        if first and credentials != found:
            raise TargetError(
                f"{chosen} is the location of {first} and of {name} in {file.path}, whose keys or rails differ; "
                "name one of them"
            )
        first, found = name, credentials
    return None, location, found


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in _FROM_ENVIRON:
        text = environ.get(f"FLAME_{key.upper()}")
        if not text:
            continue
        if key == "key_file":
            found["key"] = f"file:{os.path.expanduser(text)}"
        else:
            found[key] = check_value(key, text, SETTINGS[key], "the environment")
    return found


def _from_overrides(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key == "timeouts":
            if not isinstance(value, Timeouts):
                raise TargetError("timeouts must be a Timeouts")
            found[key] = value
        elif key == "key_file":
            found["key"] = f"file:{os.path.expanduser(value)}"
        elif key == "key":
            if not isinstance(value, str | bytes | Secret):
                raise TargetError(
                    "key is the source of a key, such as keyring or prompt, or a Secret; give one of them"
                )
            found.setdefault("key", Secret(value) if isinstance(value, bytes) else value)
        elif key == "tls":
            tls = check_tls(value, "this connection")
            if tls is not None:
                found[key] = {**(settings.get("tls") or {}), **tls}
        elif key == "insecure":
            found[key] = check_value(key, value, bool, "this connection")
        else:
            found[key] = check_value(key, value, SETTINGS[key], "this connection")
    return found
