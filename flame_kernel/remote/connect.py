"""``flame.connect``: opens a session on a Flame server, with settings from arguments, and returns it as a Remote."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..connect.keys import Ask
from ..connect.target import Secret, Target, Timeouts, load_target
from ..errors import TargetError
from ..terminal import warning
from .remote import Remote

if TYPE_CHECKING:
    from ..old_python.calls import OldPython


def connect(
    where: str | None = None,
    *,
    key: str | bytes | os.PathLike[str] | Secret | None = None,
    key_file: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    trust: bool = False,
    place: str | None = None,
    session: str | None = None,
    shell: str | None = None,
    ask: Ask | None = None,
    defaults: Mapping[str, Any] | None = None,
    **more: Any,
) -> Remote:
    """Open a session on the Flame server at ``where``: ``host:port``, ``./u:socket``, or the name of a target.

    where     None: the default target, or else a server that is started for the session on this machine
    key       the server's HMAC key itself (text, bytes), or the path of its file, like ``key_file``
    timeout   seconds for connecting
    trust     send objects that are not plain data as pickles, in both directions: only for a server that may run code
              here
    ask       asks the user for a key, or whether to trust a new certificate
    defaults  settings for what nothing else sets

    ``place``, ``session``, ``shell`` and ``more`` are settings of a target.

    Raises TargetError, CannotConnect.
    """
    remote = Remote(
        _target(
            where,
            {"place": place, "session": session, "shell": shell, **more},
            *(key, key_file, timeout, ask, defaults),
            trust=trust,
        )
    )
    remote.session.take_at_once()  # members of groups do not: their calls would wait for few threads
    for sentence in remote.target.cautions():  # every time, because the user has to judge the risk
        print(warning(sentence), file=sys.stderr)
    return remote


def connect_old_python(
    where: str,
    *,
    key: str | bytes | os.PathLike[str] | Secret | None = None,
    key_file: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    ask: Ask | None = None,
    **more: Any,
) -> OldPython:
    """Connect to a Flame server whose Python is too old for a session, such as 2.7: Flame's own calls, and no more.

    ``execute``, ``evaluate``, ``module``, ``builtin``, ``put`` and ``get``, each a call of its own; output comes at its
    end. The arguments are those of `connect`. Raises TargetError, CannotConnect.
    """
    from ..old_python.calls import OldPython  # rarely needed

    target = _target(where, dict(more), key, key_file, timeout, ask, None)
    old = OldPython(target)
    for sentence in target.cautions():
        print(warning(sentence), file=sys.stderr)
    return old


def _target(
    where: str | None,
    overrides: dict[str, Any],
    key: str | bytes | os.PathLike[str] | Secret | None,
    key_file: str | os.PathLike[str] | None,
    timeout: float | None,
    ask: Ask | None,
    defaults: Mapping[str, Any] | None,
    trust: bool = False,
) -> Target:
    if isinstance(key, os.PathLike):
        key, key_file = None, key
    if key_file is not None:
        overrides["key_file"] = os.fspath(key_file)
    if timeout is not None:
        overrides["timeouts"] = Timeouts(connect=_seconds(timeout))
    if key is not None:
        overrides["key"] = _secret(key)
    if trust:
        overrides["trust"] = True
    given = {name: value for name, value in overrides.items() if value is not None}
    return load_target(where, overrides=given, ask=ask, defaults=defaults)


def _secret(key: str | bytes | Secret) -> Secret:
    if isinstance(key, Secret):
        return key
    if not key:
        raise TargetError("key is the server's key as text or bytes, or the path of the file that it stands in")
    return Secret(key.encode() if isinstance(key, str) else key)


def _seconds(timeout: Any) -> float:
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout > 0:
        return float(timeout)
    raise TargetError(f"timeout is a number of seconds above 0, not {timeout!r}")
