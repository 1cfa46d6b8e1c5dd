"""Forwards: the forwarded ports and sockets of one session; a `Forward` is one of them.

Listeners are on loopback, unless the user names another interface. Every user of a machine can connect to its loopback
ports; the user is told so once.  A unix socket has mode 0600, for its owner alone.
"""

from __future__ import annotations

import errno
import html
import os
import threading
from collections.abc import Callable
from typing import Any

from ..agent.forward.listeners import Listener, listening_at
from ..errors import FlameError, TargetError
from ..session.session import Session
from . import addresses
from .addresses import LOOPBACK, Spec, shown
from .socks import Socks
from .tunnel import Address, Tunnel, as_wire

EVERYBODY = "every user of {machine} can connect to a loopback port there; a unix socket (--unix) is for you alone"
OPEN = "it listens on {address}, so whoever reaches that address can connect, without a key"


class Forward:
    """One forwarded port or socket; as a context manager it closes itself. Made by ``Remote.forward``.

    listen   where connections are accepted: host and port, or a path
    to       where they lead, None for a SOCKS proxy
    reverse  whether the far side listens, and this side is connected to
    trouble  a sentence about why its last connection failed; empty if it did not
    """

    def __init__(
        self, forwards: Forwards, number: int, listen: Address, to: Address | None, reverse: bool, listener: Any
    ) -> None:
        self._forwards = forwards
        self.number = number
        self.listen = listen
        self.to = to
        self.reverse = reverse
        self.trouble = ""
        self.closed = False
        self.warnings: tuple[str, ...] = ()
        self._listener = listener

    def __repr__(self) -> str:
        state = "closed" if self.closed else "cut" if not self._forwards.is_up else "open"
        return f"<Forward {self} {state}{', ' + self.trouble if self.trouble else ''}>"

    def __str__(self) -> str:
        here, there = "here", self._forwards.name
        listening, leading = (there, here) if self.reverse else (here, there)
        to = "SOCKS5, anywhere" if self.to is None else shown(self.to)
        return f"{shown(self.listen)} {listening} → {to} {'from' if self.to is None else 'at'} {leading}"

    def _repr_html_(self) -> str:
        """A link that opens in the user's browser."""
        if self.reverse or not self.url:
            return f"<code>{html.escape(repr(self))}</code>"
        link = html.escape(self.url, quote=True)
        return f'<a href="{link}" target="_blank" rel="noopener">{html.escape(str(self))}</a>'

    @property
    def local_port(self) -> int | None:
        """The port on this machine: the one that listens, or with ``reverse`` the one that we connect to."""
        address = self.to if self.reverse else self.listen
        return None if address is None or isinstance(address, str) else address[1]

    @property
    def url(self) -> str:
        """Its address: ``http://localhost:PORT/``, ``socks5h://…``, or ``unix:PATH``."""
        if isinstance(self.listen, str):
            return f"unix:{self.listen}"
        host, port = self.listen
        host = {LOOPBACK: "localhost", "0.0.0.0": "localhost"}.get(host, host)
        return f"socks5h://{host}:{port}" if self.to is None else f"http://{shown((host, port))}/"

    @property
    def connections(self) -> int | None:
        """How many connections it has now; None if only the far side knows."""
        return None if self._listener is None else len(self._listener.streams)

    def close(self) -> None:
        """Stop listening, and end its connections. May be called again."""
        self._forwards.close_one(self)

    def __enter__(self) -> Forward:  # noqa: PYI034
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Forwards:
    """The forwards of ``session``. The first one makes the tunnel, the end of the last one ends it.

    ``on_trouble`` is called with a forward and a sentence when a connection fails, and when the forward has ended by
    itself; on a thread of the tunnel.
    """

    def __init__(self, session: Session, on_trouble: Callable[[Forward, str], None] = lambda one, said: None) -> None:
        self.session = session
        self.on_trouble = on_trouble
        self._lock = threading.Lock()
        self._tunnel: Tunnel | None = None
        self._open: dict[int, Forward] = {}
        session.before_end.append(self.close)
        self._told = False  # whether the user was told that loopback ports are open to all users

    def __repr__(self) -> str:
        return f"<Forwards of {self.name}: {len(self._open)}>"

    def __iter__(self) -> Any:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    @property
    def name(self) -> str:
        """The target's name, or its location."""
        return self.session.target.name or self.session.location

    @property
    def is_up(self) -> bool:
        return self._tunnel is not None and self._tunnel.is_up

    @property
    def cuts(self) -> int:
        """How often the connection broke and was made again."""
        return 0 if self._tunnel is None else self._tunnel.cuts

    @property
    def traffic(self) -> tuple[int, int]:
        """The bytes that have come from the far side through the present tunnel, and that were sent there."""
        return (0, 0) if self._tunnel is None else self._tunnel.traffic

    def open(
        self,
        port: int | str | os.PathLike[str] = 0,
        *,
        reverse: bool = False,
        local: int | str | os.PathLike[str] | None = None,
        host: str | None = None,
        bind: str | None = None,
        socks: bool = False,
    ) -> Forward:
        """Forward a port or socket; see ``Remote.forward``. Raises TargetError, FlameError."""
        if socks and (reverse or host is not None):
            raise TargetError("a SOCKS5 proxy listens here and reaches any host; leave reverse and host out")
        if socks:
            return self.add(Spec(_bound(_local(local or port, LOOPBACK), bind), ""), socks=True)
        spec = _asked(port, reverse and local is not None, host)
        if local is not None and spec.listen is not None:
            raise TargetError("name this side's end once: as local, or before the colon")
        if reverse:
            spec = _reversed(spec, local)
        elif local is not None:
            spec = Spec(_local(local, LOOPBACK), spec.to)
        elif isinstance(spec.listen, str):
            spec = Spec(addresses.path(spec.listen), spec.to)
        listen = spec.listen if spec.listen is not None else _default(spec.to)
        return self.add(Spec(_bound(listen, bind), spec.to), reverse=reverse, any_port=spec.listen is None)

    def add(self, spec: Spec, *, reverse: bool = False, socks: bool = False, any_port: bool = False) -> Forward:
        """Forward what ``spec`` says. ``any_port``: use another port here if this one is taken."""
        self._check()
        assert spec.listen is not None
        listen, to = spec.listen, None if socks else spec.to
        with self._lock:
            if reverse:
                number, port = self._there(listen, spec.to)
                listener = None
            else:
                listener = self._here(listen, spec.to, socks, any_port)
                port = None if isinstance(listen, str) else listener.sock.getsockname()[1]
                try:
                    number = self._connected().listen_here(listener)
                except BaseException:  # raised again, whatever it is; the port is free again
                    listener.close()
                    self._close_if_empty()
                    raise
            if not isinstance(listen, str) and port is not None:
                listen = (listen[0], port)
            made = Forward(self, number, listen, to, reverse, listener)
            made.warnings = tuple(self._warnings(made))
            self._open[number] = made
        return made

    def _check(self) -> None:
        session = self.session
        if not session.target.forward:
            raise TargetError(f"forwards are off for {self.name}: it has forward = false in targets.toml")
        if session.gone is not None:
            raise session.gone
        if session.server.get("servertype") == "multiplex":
            raise FlameError(
                f"{self.name} serves one call at a time (servertype multiplex), so it cannot carry forwarded ports; "
                "start it with PYRO_SERVERTYPE=thread"
            )

    def _connected(self) -> Tunnel:
        if self._tunnel is None or self._tunnel.is_closed:
            self._tunnel = Tunnel(self.session, self._refused, self._ended)
        return self._tunnel

    def _here(self, listen: Address, to: Address, socks: bool, any_port: bool) -> Listener:
        try:
            sock = listening_at(listen)
        except OSError as e:
            if not any_port or isinstance(listen, str) or e.errno == errno.EADDRNOTAVAIL:
                raise FlameError(_unusable(listen, e)) from e
            sock = listening_at((listen[0], 0))
        return Listener(sock, None if socks else as_wire(to), Socks if socks else None)

    def _there(self, listen: Address, to: Address) -> tuple[int, int | None]:
        tunnel = self._connected()
        try:
            return tunnel.listen_there(listen, to)
        except FlameError as e:
            self._close_if_empty()
            if type(e) is not FlameError:
                raise
            what, other = (listen, "path") if isinstance(listen, str) else (f"port {listen[1]}", "one, or 0 for any")
            if not isinstance(listen, str) and "requested address" in str(e):  # as every system has it
                raise FlameError(_no_address(listen, self.name)) from None
            raise FlameError(f"{what} cannot be used at {self.name} ({e}); choose another {other}") from None

    def _warnings(self, made: Forward) -> list[str]:
        if isinstance(made.listen, str):
            return []
        if addresses.is_open(made.listen):
            return [OPEN.format(address=shown(made.listen))]
        if self._told:
            return []
        self._told = True
        return [EVERYBODY.format(machine=self.name if made.reverse else "this machine")]

    # -- their ends

    def _refused(self, listener: Listener, why: str) -> None:
        for one in list(self._open.values()):
            if one._listener is listener:
                where = f"{shown(one.to)} at {self.name}" if one.to else self.name
                one.trouble = f"no connection to {where}: {why}"
                self.on_trouble(one, one.trouble)

    def _ended(self, error: FlameError) -> None:
        for one in list(self._open.values()):
            self._open.pop(one.number, None)
            one.closed, one.trouble = True, str(error)
            self.on_trouble(one, f"{one} has ended: {error}")

    def find(self, what: str) -> Forward:
        """The forward that the user means: by its port or path, of either end. Raises FlameError."""
        for one in self:
            ends = [end for end in (one.listen, one.to) if end is not None]
            if what in [shown(end) for end in ends] + [str(end[1]) for end in ends if not isinstance(end, str)]:
                return one  # type: ignore[no-any-return]
        known = ", ".join(shown(one.listen) for one in self) or "none"
        raise FlameError(f"nothing is forwarded as {what}; there is {known}")

    def close_one(self, one: Forward) -> None:
        with self._lock:
            if self._open.pop(one.number, None) is None:
                return
            one.closed = True
            if self._tunnel is not None:
                self._tunnel.unlisten(one.number)
            self._close_if_empty()

    def _close_if_empty(self) -> None:
        if not self._open and self._tunnel is not None:
            self._tunnel.close()
            self._tunnel = None

    def close(self) -> None:
        """End all of them. May be called again."""
        with self._lock:
            for one in self._open.values():
                one.closed = True
            self._open.clear()
            self._close_if_empty()


def _asked(port: int | str | os.PathLike[str], zero: bool, host: object) -> Spec:
    """What a port, a path, or text with colons means, on ``host``; ``zero``: 0 is a port that is free."""
    if isinstance(port, str) and ":" in port:
        spec = addresses.parse(port)
    else:
        spec = Spec(None, _end(port, "localhost", zero=zero))
    if host is None:
        return spec
    if not isinstance(host, str) or not host:
        raise TargetError(f"{host!r} is no host; write its name or address, such as db.internal")
    if isinstance(spec.to, str):
        raise TargetError("a unix socket has no host; leave host out")
    return Spec(spec.listen, (host, spec.to[1]))


def _no_address(listen: Address, machine: str) -> str:
    return f"{listen[0]} is no address of {machine}; leave bind out for loopback, or write * for all"


def _unusable(listen: Address, error: OSError) -> str:
    """Why nothing can listen there on this machine, in words."""
    if error.errno == errno.EADDRNOTAVAIL:
        return _no_address(listen, "this machine")
    why = (
        "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({(error.strerror or str(error)).lower()})"
    )
    what, other = (listen, "path") if isinstance(listen, str) else (f"port {listen[1]}", "one, or 0 for any")
    return f"{what} {why} on this machine; choose another {other}"


def _end(value: int | str | os.PathLike[str], host: str, zero: bool = False) -> Address:
    if isinstance(value, os.PathLike) or (isinstance(value, str) and addresses.is_path(value)):
        return os.fspath(value)
    return host, addresses.port(value, zero=zero)


def _local(value: int | str | os.PathLike[str], host: str) -> Address:
    """An end on this machine; port 0 is any that is free."""
    if isinstance(value, os.PathLike) or (isinstance(value, str) and addresses.is_path(value)):
        return addresses.path(value)
    return host, addresses.port(value, zero=True)


def _default(to: Address) -> Address:
    if isinstance(to, str):
        raise TargetError(f"say where {to} is reached here: local= (--local) a port, or the path of a socket")
    return LOOPBACK, to[1]


def _bound(listen: Address, bind: str | None) -> Address:
    if bind is None:
        return listen
    if isinstance(listen, str):
        raise TargetError("a unix socket is on no interface; leave bind out")
    return addresses.bind(bind), listen[1]


def _reversed(spec: Spec, local: int | str | os.PathLike[str] | None) -> Spec:
    """With ``reverse`` the port that is named is the far side's, which listens there."""
    if spec.listen is not None:
        return Spec(spec.listen, addresses.path(spec.to) if isinstance(spec.to, str) else spec.to)
    if isinstance(spec.to, str):
        if local is None:
            raise TargetError(f"say where connections to {spec.to} lead here: local= (--local) a port, or a path")
        return Spec(spec.to, _local(local, "localhost"))
    host, port = spec.to
    return Spec((LOOPBACK, port), (host, port) if local is None else _to(local, host))


def _to(local: int | str | os.PathLike[str], host: str) -> Address:
    found = _local(local, host)
    if not isinstance(found, str):
        addresses.port(found[1])
    return found
