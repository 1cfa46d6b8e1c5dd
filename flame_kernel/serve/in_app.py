"""``flame.serve()`` starts Flame in a running app, so that notebooks can work inside it."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..connect.location import Location
from ..errors import TargetError
from . import hardening
from .plan import MAX_MESSAGE, THREADS, KeyFile, Plan, clear_socket, is_loopback

_NAME = "Pyro.Flame"
_PICKLE = 4  # the number of the serializer in message headers


class Serving:
    """Flame running in an app; ``str`` is the line to paste into a notebook, ``close`` ends it."""

    def __init__(self, location: str, line: str, ends: list[Callable[[], Any]]) -> None:
        self.location = location
        self.line = line
        self._ends = ends
        atexit.register(self.close)

    def __str__(self) -> str:
        return self.line

    def __repr__(self) -> str:
        return f"<Serving {self.location}{'' if self._ends else ', ended'}>"

    def close(self) -> None:
        """Stop serving; end the daemon if it was made for this. May be called again."""
        ends, self._ends = self._ends, []
        atexit.unregister(self.close)
        for end in ends:
            end()


def serve(
    daemon: Any = None,
    *,
    key_file: str | os.PathLike[str] | None = None,
    harden: bool = True,
    quiet: bool = False,
    **where: Any,
) -> Serving:
    """Let notebooks into this process: cells run inside it, and see and change its objects.

    daemon    the app's own Pyro4 daemon, whose loop the app runs; None: make one that runs on a thread
    key_file  file with the key; made with a new key if missing. None: a temporary file, removed by ``close``
    harden    protect the daemon from clients without the key (see ``hardening``)
    quiet     do not print the line to paste into a notebook
    where     ``host``, ``port``, ``unix``, ``tls``, ``anyone``, as for Plan; only for a daemon that is made here

    A daemon without a key is given one; its other clients then need that key, too.  In the whole process,
    ``Pyro4.config.THREADPOOL_SIZE`` is raised if it is small, and ``MAX_MESSAGE_SIZE`` is set if it has no limit.
    Raises TargetError.
    """
    plan = _plan_for(where, harden) if daemon is None else _plan_of(daemon, harden, where)
    made: KeyFile | None = None
    with contextlib.ExitStack() as undo:
        if key_file is not None or getattr(daemon, "_pyroHmacKey", None) is None:
            made = _key_file(daemon, key_file)
            undo.callback(made.remove)
        loop: threading.Thread | None = None
        ends: list[Callable[[], Any]]
        if daemon is None:
            daemon = _make_daemon(plan)
            loop = threading.Thread(target=daemon.requestLoop, name="flame-serving", daemon=True)
            ends = [daemon.shutdown, loop.join]
        else:
            ends = [lambda: daemon.unregister(_NAME)]
        if made is not None:
            _give_key(daemon, made)
            ends.append(made.remove)
        uri = _register(daemon, plan)
        if plan.harden:
            ends.insert(0, _harden(daemon))
        if loop is not None:
            loop.start()
        undo.pop_all()
    key = made.path if made is not None else Path("FILE-WITH-ITS-KEY")
    lines = plan.advice(uri.port, key)
    if not quiet:
        print("Flame is open here. Paste into a notebook:", *(f"    {line}" for line in lines), sep="\n", flush=True)
    return Serving(plan.location(uri.port), lines[0], ends)


def _plan_for(where: dict[str, Any], harden: bool) -> Plan:
    """The Plan for a new daemon, from the arguments of ``serve``."""
    paths = {name: Path(where[name]) for name in ("unix", "tls") if where.get(name) is not None}
    return Plan(**{**where, **paths}, harden=harden)


def _plan_of(daemon: Any, harden: bool, where: dict[str, Any]) -> Plan:
    """The Plan that describes the app's own daemon; TargetError if Flame must not be served there."""
    if where:
        raise TargetError(f"{', '.join(where)} cannot be set for an existing daemon; leave them out, or the daemon")
    server = getattr(daemon, "transportServer", None)
    if server is None:
        raise TargetError("this is not a listening Pyro4 daemon; give one, or leave it out to have one made")
    place = Location.parse(daemon.locationStr)
    encrypted = hasattr(server.sock, "context")
    if place.path:
        return Plan(unix=Path(place.path), harden=harden)
    # Look at the socket, not at the location: a host name may stand for any address.
    address = server.sock.getsockname()[0]
    if not encrypted and not is_loopback(address):
        raise TargetError(
            f"others can reach this daemon at {address} and it has no TLS; bind it to 127.0.0.1, or set "
            "Pyro4.config.SSL with certificates before it is made"
        )
    return Plan(port=place.port, harden=harden)


def _make_daemon(plan: Plan) -> Any:
    from Pyro4 import core, errors
    from Pyro4.configuration import config

    if plan.unix is not None:
        clear_socket(plan.unix)
    before = {name: getattr(config, name) for name in (*plan.settings, "SERIALIZERS_ACCEPTED", "SERVERTYPE")}
    umask = os.umask(0o077) if plan.unix else None
    try:
        for name, value in plan.settings.items():
            setattr(config, name, value)
        config.SERIALIZERS_ACCEPTED = {"pickle"}
        config.SERVERTYPE = "thread"
        return core.Daemon(plan.host, plan.port, unixsocket=str(plan.unix) if plan.unix else None)
    except (OSError, errors.PyroError) as error:
        where = f"./u:{plan.unix}" if plan.unix else f"{plan.host}:{plan.port}"
        raise TargetError(f"cannot listen at {where}: {error}; choose another place") from error
    finally:
        if umask is not None:
            os.umask(umask)
        for name, value in before.items():
            setattr(config, name, value)


def _register(daemon: Any, plan: Plan) -> Any:
    """Register Flame in ``daemon``; Pyro's configuration is changed for that only as long as it takes."""
    from Pyro4.configuration import config
    from Pyro4.utils import flame

    before = config.FLAME_ENABLED, config.SERIALIZERS_ACCEPTED
    if config.THREADPOOL_SIZE < THREADS:
        config.THREADPOOL_SIZE = THREADS
    if not config.MAX_MESSAGE_SIZE:
        config.MAX_MESSAGE_SIZE = MAX_MESSAGE
    if _NAME in daemon.objectsById:
        return daemon.uriFor(_NAME)
    if _PICKLE not in daemon._Daemon__serializer_ids:
        raise TargetError(
            "this daemon does not accept pickle, which Flame needs; make it under SERIALIZERS_ACCEPTED = {'pickle'}"
        )
    try:
        config.FLAME_ENABLED = True
        config.SERIALIZERS_ACCEPTED = {"pickle"}
        return flame.start(daemon)
    finally:
        config.FLAME_ENABLED, config.SERIALIZERS_ACCEPTED = before


def _key_file(daemon: Any, name: str | os.PathLike[str] | None) -> KeyFile:
    path = None if name is None else Path(name)
    if getattr(daemon, "_pyroHmacKey", None) is not None and path is not None and not path.exists():
        raise TargetError(f"this daemon has a key already, and there is no {path}; leave key_file out")
    return KeyFile.get(path)


def _harden(daemon: Any) -> Callable[[], Any]:
    """Protect ``daemon`` from clients without the key; return a function that undoes it."""
    try:
        undo: Callable[[], Any] = hardening.harden(daemon).undo
    except ValueError as error:
        raise TargetError(str(error)) from error
    return undo


def _give_key(daemon: Any, made: KeyFile) -> None:
    given = daemon._pyroHmacKey
    if given is not None and bytes(given) != made.key.reveal():
        raise TargetError(f"this daemon has a key already, and not the one in {made.path}; leave key_file out")
    daemon._pyroHmacKey = made.key.reveal()
