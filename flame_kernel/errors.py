"""Every error of Remote Flame: one tree, its wording, and nothing else.

::

    FlameError
     ├─ TargetError          the user's input: a location, a key file, the configuration
     ├─ CannotConnect        no connection to the server; ``cause`` says why
     ├─ ConnectionLost       the link broke in a call: it is unknown whether the call was executed
     │   ├─ CallTimeout      … because no answer came in time
     │   └─ UnsafeAnswer     … because what came is not what a Flame server answers
     ├─ SessionGone          the session on the server no longer exists: restarted, closed
     │   └─ TakenOver        … for us: another client has it now
     ├─ TransferError        a file, folder or module that cannot be copied, on either side
     ├─ CannotTravel         a value that is not plain, and no trust to send it as a pickle; a TypeError too
     ├─ ObjectGone           the object behind a stand-in no longer exists; a ReferenceError too
     ├─ NotSent              a request was stopped before it was sent
     ├─ NotAnswered          a host of a group did not answer while the others did
     ├─ GroupError           some hosts of a group failed; ``errors`` has what each raised
     ├─ RemoteError          the code on the far side raised; name, message and traceback as text
     └─ AgentError           our agent on the server refused

Facts are attributes; ``str()`` makes them one sentence that says what happened, where, and what to do next.
Many quote a server. Its words become text without terminal escapes here, where the errors are made, and nowhere else.
All of them survive ``pickle`` and ``copy``, since notebooks' parallel libraries pass exceptions between processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .terminal import one_line, plain_text

# Most characters of the far side's text that are shown: longer text helps nobody, and could fill a notebook.
MAX_NAME = 200
MAX_MESSAGE = 10_000
MAX_TRACEBACK = 100_000

_NOT_PYRO = "start pyro4-flameserver there, or give its port"

# cause -> (what happened, what to do next). `{detail}` stands for what was seen.
_CAUSES: dict[str, tuple[str, str]] = {
    "refused": ("connection refused", "is pyro4-flameserver running there?"),
    "timeout": ("no answer in time", "is the host up, and does a firewall let this port through?"),
    "unresolvable": ("the host name is unknown", "check its spelling, or give the IP address"),
    "unreachable": ("it cannot be reached", "check the network and the permissions"),
    "not_pyro": ("what answers there is not Pyro", _NOT_PYRO),
    "not_flame": (
        "a Pyro daemon answers there, but it offers no Flame",
        "start it as pyro4-flameserver with PYRO_FLAME_ENABLED=true, or call Pyro4.utils.flame.start(daemon) in it",
    ),
    "key_wrong": ("wrong key for this server", "check --key-file (key_file)"),
    "key_missing_here": (
        "this server needs a key",
        "save it in a file (chmod 600) and add --key-file FILE (FLAME_KEY_FILE counts with FLAME_TARGET alone)",
    ),
    "key_missing_there": (
        "a key is set here but the server has none, so anyone could use it",
        "start the server with PYRO_HMAC_KEY, or remove key_file here",
    ),
    "pool_full": (
        "the server has no free connection",
        "close other clients, or start it with a larger PYRO_THREADPOOL_SIZE: a session takes 2, and files or large "
        "values 1 more",
    ),
    "closed": ("the server closed the connection", "look at what the server printed, then try again"),
    "old_python": (
        "its Python is too old for a session",
        "run the server on Python 3.6 or newer; as it is, jupyter flame exec, eval, put, get and console work, plain "
        "%%flame cells, and flame.connect_old_python",
    ),
    "message_size": (
        "it accepts only very small messages",
        "start it with a larger PYRO_MAX_MESSAGE_SIZE, such as 1000000, or without it",
    ),
    "protocol": ("it does not speak this Pyro protocol", "run Pyro4 4.82 or one of the same wire protocol there"),
    "tls": (
        "the server needs TLS and this connection has none",
        "name its CA (--tls-ca FILE, or tls in targets.toml), or use --tls to be asked about its certificate",
    ),
    # TLS was spoken, and this came of it.
    "tls_plain": (
        "TLS is required here and the server does not speak it",
        "start it with PYRO_SSL=true and PYRO_SSL_SERVERCERT, or remove tls here if you mean a server without TLS",
    ),
    "tls_untrusted": (
        "its certificate is not signed by the CA that is trusted for it",
        "give this server's CA as tls.ca (--tls-ca); or have it send its intermediate certificates too, "
        "behind its own in PYRO_SSL_SERVERCERT",
    ),
    "tls_self_signed": (
        "its certificate is self-signed, and not the one that is trusted here",
        "give that certificate as tls.ca (--tls-ca), or its fingerprint as tls.pin (--tls-pin)",
    ),
    "tls_expired": (
        "its certificate, or that of its CA, has expired",
        "make a new one there (jupyter flame certs), or set this machine's clock",
    ),
    "tls_not_yet": (
        "its certificate is not valid yet",
        "set this machine's clock, or wait",
    ),
    "tls_name": (
        "its certificate is for another host name",
        "use the name that the certificate has, or set tls.server_name (--tls-name)",
    ),
    "tls_unknown": (
        "its certificate is not known here yet",
        "compare the fingerprint with the server's owner; then %flame connect … --tls asks, or set tls.pin (--tls-pin)",
    ),
    "tls_changed": (
        "ITS CERTIFICATE HAS CHANGED: this may be somebody in between",
        "ask the server's owner; only if it was renewed, change tls.pin, or remove its line from flame_known_servers",
    ),
    "tls_client_missing": (
        "the server needs a certificate from this client",
        "give it as tls.certificate with tls.key_file (--tls-cert, --tls-key)",
    ),
    "tls_client_refused": (
        "the server does not accept the certificate of this client",
        "give one that is signed by the CA in the server's PYRO_SSL_CACERTS as tls.certificate (--tls-cert)",
    ),
    "tls_version": (
        "it speaks only old, unsafe versions of TLS",
        "run it on a Python with TLS 1.2 or newer, or reach it by ssh, without TLS",
    ),
    "tls_failed": (
        "the TLS connection failed",
        "check PYRO_SSL, PYRO_SSL_SERVERCERT and PYRO_SSL_CACERTS there, and tls here",
    ),
    # If the location is a name that a name server knows.
    "name_server": (
        "its name server cannot be asked",
        "is pyro4-ns running there? another one is named as in ns:NAME@host:port, or in FLAME_NS",
    ),
    "name_server_key": (
        "its name server has another key",
        "name the file with the name server's own key: --ns-key-file, ns_key_file in targets.toml, FLAME_NS_KEY_FILE",
    ),
    "name_unknown": ("its name server knows no such name", "jupyter flame discover lists those that it knows"),
    "name_not_flame": (
        "that name belongs to something that is not a Flame server",
        "jupyter flame discover lists those that are",
    ),
    "name_elsewhere": (
        "its name server gives an address that only works on that machine itself",
        "register it with an address that others can reach, or go there by ssh://user@host/port",
    ),
    "ssh": ("ssh could not reach the host", "check it by hand: ssh to the same host; %flame connect tries again"),
    "ssh_forbids": (
        "the ssh server there forbids forwarding to it",
        "see AllowTcpForwarding, PermitOpen and, for a socket, AllowStreamLocalForwarding in its sshd_config",
    ),
    "ssh_denied": ("ssh could not log in", "log in once by hand with the same name, or correct ssh's configuration"),
}

# These may pass by themselves: a reconnecting client tries again. The others need a person.
_PASSING = frozenset(
    {"refused", "timeout", "unresolvable", "unreachable", "pool_full", "closed", "ssh", "name_server", "name_unknown"}
)
# Concluded from silence only, if there is a detail; a bad network can cause that as well.
_BY_SILENCE = frozenset({"tls", "tls_client_missing", "tls_client_refused"})


class FlameError(Exception):
    """The root: `except FlameError` catches whatever Remote Flame raises on purpose."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(plain_text(one) if isinstance(one, str) else one for one in args))

    def __reduce__(self) -> Any:
        # Exceptions rebuild themselves from `args`, which for these classes is not what `__init__` takes.
        return _rebuild, (type(self), self.args), dict(self.__dict__)


def _rebuild(kind: type[FlameError], args: tuple[Any, ...]) -> FlameError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class TargetError(FlameError):
    """A location, a key file or a configuration that cannot be used; its text is one sentence with the next step."""


class CannotConnect(FlameError):
    """There is no connection to the server at ``location``.

    ``cause`` is one of the keys above (``refused``, ``timeout``, …); ``detail`` is what was seen, or empty.
    """

    def __init__(self, location: str, cause: str, detail: str = "") -> None:
        if cause not in _CAUSES:
            raise ValueError(f"unknown cause {cause!r}")
        super().__init__(location, cause, detail)
        self.location, self.cause, self.detail = self.args

    @property
    def passing(self) -> bool:
        """True if trying again later may help although nobody changes a setting."""
        return self.cause in _PASSING or (self.cause in _BY_SILENCE and self.detail != "")

    @property
    def what(self) -> str:
        """What happened, in a few words."""
        return _CAUSES[self.cause][0]

    @property
    def advice(self) -> str:
        """What to do next."""
        return _CAUSES[self.cause][1]

    def __str__(self) -> str:
        what, advice = _CAUSES[self.cause]
        seen = f" ({self.detail})" if self.detail else ""
        return f"cannot reach the flame server at {self.location}: {what}{seen}; {advice}"


class ConnectionLost(FlameError):
    """The link to ``location`` broke during a call: it is unknown whether the call was executed."""

    def __init__(self, location: str, detail: str) -> None:
        super().__init__(location, detail)
        self.location, self.detail = self.args

    def __str__(self) -> str:
        return f"lost the connection to the flame server at {self.location}: {self.detail}"


class CallTimeout(ConnectionLost):
    """``what`` was not answered within ``seconds``; the connection is closed, since a late answer would confuse it."""

    def __init__(self, location: str, what: str, seconds: float) -> None:
        super().__init__(location, f"{what} was not answered within {seconds:g} s")
        self.what = plain_text(what)
        self.seconds = seconds
        self.args = (self.location, self.what, seconds)

    def __str__(self) -> str:
        return (
            f"no answer from the flame server at {self.location}: {self.what} was not answered within "
            f"{self.seconds:g} s; it may be busy or frozen, and it may still do what was asked"
        )


class UnsafeAnswer(ConnectionLost):
    """What came from ``location`` is not what a Flame server answers: it was refused unread, the connection closed.

    `security/reader.py` reads bytes and knows no location: there it is empty, and `connect/connection.py` fills it in.
    """

    def __str__(self) -> str:
        where = f" from the flame server at {self.location}" if self.location else ""
        return f"refused an answer{where}: {self.detail}; check that you reach the server you mean"


class SessionGone(FlameError):
    """The session at ``location`` cannot be had back; ``reason`` says why. Its names are lost.

    ``fate`` is what is known of the request that is answered by this, or empty.
    """

    def __init__(self, location: str, reason: str, fate: str = "") -> None:
        super().__init__(location, reason, fate)
        self.location, self.reason, self.fate = self.args

    def __str__(self) -> str:
        gone = f"the session at {self.location} is gone: {self.reason}"
        fate = f"; {self.fate}" if self.fate else ""
        return f"{gone}{fate}; its variables are lost; the next cell opens a new one"


class TakenOver(SessionGone):
    """Another client has taken up the session at ``location``: it lives on there, and this one is out of it."""

    def __str__(self) -> str:
        fate = f"; {self.fate}" if self.fate else ""
        return f"{self.reason} at {self.location}{fate}; %flame attach NAME --ask asks for it back"


class CannotTravel(FlameError, TypeError):
    """A value that does not go to the other side as it is; its text is one sentence with the next step."""


class ObjectGone(FlameError, ReferenceError):
    """The object at ``location`` behind a stand-in no longer exists."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        (self.location,) = self.args

    def __str__(self) -> str:
        return f"the object at {self.location} is gone: its session ended; make it again"


class NotSent(FlameError):
    """The user stopped a request that was not sent to ``location`` yet: it does not run there."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        (self.location,) = self.args

    def __str__(self) -> str:
        return f"stopped before it was sent to {self.location}: it does not run there"


class RemoteError(FlameError):
    """The code on the far side raised ``ename: evalue``; all three are text, and cut to a length that can be shown."""

    def __init__(self, ename: str, evalue: str, traceback: str) -> None:
        # A traceback names the error at its end, so that is the part to keep whole.
        traceback = cap(traceback, MAX_TRACEBACK, keep_end=True)
        super().__init__(one_line(ename, MAX_NAME), cap(evalue, MAX_MESSAGE), traceback)
        self.ename, self.evalue, self.traceback = self.args

    def __str__(self) -> str:
        return f"{self.ename}: {self.evalue}" if self.evalue else self.ename


class AgentError(FlameError):
    """Our agent on the server refused a request; ``code`` is a word such as ``no_session``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(one_line(code, MAX_NAME), cap(message, MAX_MESSAGE))
        self.code: str = self.args[0]
        self.message: str = self.args[1]

    def __str__(self) -> str:
        return self.message or self.code


class TransferError(FlameError):
    """What cannot be copied and why, in one sentence; ``code`` is a word such as ``full``, or empty, and ``location``
    the server that the sentence names, if it names one."""

    def __init__(self, message: str, code: str = "", location: str = "") -> None:
        super().__init__(message, code, location)
        self.message: str = self.args[0]
        self.code: str = self.args[1]
        self.location: str = self.args[2]

    def __str__(self) -> str:
        return self.message


class NotAnswered(FlameError):
    """The host at ``location`` did not answer while the others of its group did; ``detail`` says how that showed."""

    def __init__(self, location: str, detail: str) -> None:
        super().__init__(location, detail)
        self.location, self.detail = self.args

    def __str__(self) -> str:
        return f"{self.location} does not answer: {self.detail}"


class GroupError(FlameError):
    """Some hosts of a group failed: ``errors`` are what they raised, by host; ``results`` has the others' answers.

    ``total`` is how many hosts there are; ``lines`` tell the errors for people, equal ones once.
    """

    def __init__(
        self, total: int, errors: Mapping[str, BaseException], results: Any = None, lines: Sequence[str] = ()
    ) -> None:
        super().__init__(total)
        self.total = total
        self.errors = dict(errors)
        self.results = results
        self.lines = list(lines)

    def __str__(self) -> str:
        if not self.errors:
            return f"some of {self.total} hosts failed"
        host, error = next(iter(self.errors.items()))
        name, words = type(error).__name__, str(error)
        if isinstance(error, RemoteError):
            name, words = error.ename, error.evalue
        first = "" if len(self.errors) == 1 else "the first, "
        words = one_line(f"{host}: {name}: {words}" if words else f"{host}: {name}", 500)
        return f"{len(self.errors)} of {self.total} hosts failed; {first}{words}"

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: each different error, four of them whole."""
        return [*self.lines, f"{type(self).__name__}: {len(self.errors)} of {self.total} hosts failed"]


def cap(text: str, limit: int, keep_end: bool = False) -> str:
    """``text``, or its first (or last) ``limit`` characters with a note of how much is gone."""
    if len(text) <= limit:
        return text
    note = f"[{len(text) - limit} characters left out]"
    return f"{note}\n{text[-limit:]}" if keep_end else f"{text[:limit]} {note}"
