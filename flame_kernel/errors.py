"""Every error of Remote Flame: one tree, its wording, and nothing else.

::

    FlameError
     ├─ TargetError          the user's input: a location, a key file, the configuration
     ├─ CannotConnect        no connection to the server; ``cause`` says why
     ├─ ConnectionLost       the link broke in a call: it is unknown whether the call was executed
     │   ├─ CallTimeout      … because no answer came in time
     │   └─ UnsafeAnswer     … because what came is not what a Flame server answers
     ├─ SessionGone          the session on the server is no more: restarted, taken over, closed
     ├─ RemoteError          the code on the far side raised; name, message and traceback as text
     └─ AgentError           our agent on the server refused

Facts are attributes; ``str()`` makes them one sentence that says what happened, where, and what to do next.
All of them survive ``pickle`` and ``copy``, since notebooks' parallel libraries pass exceptions between processes.
"""

from __future__ import annotations

from typing import Any

# What the far side says is shown to a person: longer text than this helps nobody, and could fill a notebook.
MAX_NAME = 200
MAX_MESSAGE = 10_000
MAX_TRACEBACK = 100_000

_NOT_PYRO = "start pyro4-flameserver there, or give its port"

# cause -> (what happened, what to do next). `{detail}` stands for what was seen, where that is worth saying.
_CAUSES: dict[str, tuple[str, str]] = {
    "refused": ("connection refused", "is pyro4-flameserver running there?"),
    "timeout": ("no answer in time", "is the host up, and does a firewall let this port through?"),
    "unresolvable": ("the host name is unknown", "check its spelling, or give the IP address"),
    "unreachable": ("there is no way to it", "check the network and the permissions"),
    "not_pyro": ("what answers there is not Pyro", _NOT_PYRO),
    "not_flame": (
        "a Pyro daemon answers there, but it offers no Flame",
        "start it as pyro4-flameserver with PYRO_FLAME_ENABLED=true, or call Pyro4.utils.flame.start(daemon) in it",
    ),
    "key_wrong": ("the key is not the one of the server", "give the file with the server's own key as key_file"),
    "key_missing_here": (
        "the server demands a key and none is set here",
        "put the server's key in a file of mode 0600 and name it as key_file (or in FLAME_KEY_FILE)",
    ),
    "key_missing_there": (
        "a key is set here but the server has none, so anyone could use it",
        "start the server with PYRO_HMAC_KEY, or remove key_file here",
    ),
    "pool_full": (
        "the server has no free connection",
        "close other clients, or start it with a larger PYRO_THREADPOOL_SIZE",
    ),
    "closed": ("the server closed the connection", "look at what the server printed, then try again"),
    "protocol": ("it does not speak this Pyro protocol", "run Pyro4 4.82 or one of the same wire protocol there"),
    "tls": (
        "the server wants TLS and this connection is plain",
        "unset PYRO_SSL there and reach it through ssh -L, as this client does not speak TLS",
    ),
}

# These may pass by themselves: a reconnecting client tries again. The others need a person.
_PASSING = frozenset({"refused", "timeout", "unresolvable", "unreachable", "pool_full", "closed"})


class FlameError(Exception):
    """The root: `except FlameError` catches whatever Remote Flame raises on purpose."""

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
        self.location = location
        self.cause = cause
        self.detail = detail

    @property
    def passing(self) -> bool:
        """True where trying again later may help without anybody changing a setting.

        A TLS server is recognised by a reset without a word, which a bad network can also cause: worth a retry.
        """
        return self.cause in _PASSING or (self.cause == "tls" and self.detail != "")

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
        self.location = location
        self.detail = detail

    def __str__(self) -> str:
        return f"lost the connection to the flame server at {self.location}: {self.detail}"


class CallTimeout(ConnectionLost):
    """``what`` was not answered within ``seconds``; the connection is closed, since a late answer would confuse it."""

    def __init__(self, location: str, what: str, seconds: float) -> None:
        super().__init__(location, f"{what} was not answered within {seconds:g} s")
        self.args = (location, what, seconds)
        self.what = what
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"no answer from the flame server at {self.location}: {self.what} was not answered within "
            f"{self.seconds:g} s; it may be busy or frozen, and it may still do what was asked"
        )


class UnsafeAnswer(ConnectionLost):
    """What came from ``location`` is not what a Flame server answers: it was refused unread, the connection closed.

    `security.py` reads bytes and knows no location: there it is empty, and `transport.py` fills it in.
    """

    def __str__(self) -> str:
        where = f" from the flame server at {self.location}" if self.location else ""
        return f"refused an answer{where}: {self.detail}; check that you reach the server you mean"


class SessionGone(FlameError):
    """The session at ``location`` cannot be had back; ``reason`` says why. Its names are lost."""

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(location, reason)
        self.location = location
        self.reason = reason

    def __str__(self) -> str:
        gone = f"the session at {self.location} is gone: {self.reason}"
        return f"{gone}; its names are lost, the next cell opens a new one"


class RemoteError(FlameError):
    """The code on the far side raised ``ename: evalue``; all three are text, and cut to a length that can be shown."""

    def __init__(self, ename: str, evalue: str, traceback: str) -> None:
        ename, evalue = cap(ename, MAX_NAME), cap(evalue, MAX_MESSAGE)
        # A traceback names the error at its end, so that is the part to keep whole.
        traceback = cap(traceback, MAX_TRACEBACK, keep_end=True)
        super().__init__(ename, evalue, traceback)
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.ename}: {self.evalue}" if self.evalue else self.ename


class AgentError(FlameError):
    """Our agent on the server refused a request; ``code`` is a word such as ``no_session``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message or self.code


def cap(text: str, limit: int, keep_end: bool = False) -> str:
    """``text``, or its first (or last) ``limit`` characters with a note of how much is gone."""
    if len(text) <= limit:
        return text
    note = f"[{len(text) - limit} characters left out]"
    return f"{note}\n{text[-limit:]}" if keep_end else f"{text[:limit]} {note}"
