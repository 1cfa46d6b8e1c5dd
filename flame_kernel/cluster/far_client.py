"""FarClient: the client of a cluster in a kernel's own namespace, which is on the far side."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import FlameError
from ..forward.addresses import LOOPBACK, Spec
from ..forward.forwards import Forward, Forwards
from ..remote.calls import Calls
from ..remote.far_names import push
from ..remote.modules import sendmodule
from ..remote.proxy import reference, stand_in
from ..session.session import Session
from ..terminal import one_line
from . import far_side

_MODULE = "flame_dask_client"
# A name of ours in the session's namespace, for the moment of a call: what it names must not be in the text of a call.
_GIVEN = "_flame_dask_given"


class FarClient:
    """Binds a client there; a forwarded port leads from it to the scheduler. Its methods wait: for a thread."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._forward: Forward | None = None
        self._bound: tuple[str, Any] = ("", None)  # its name, and where the scheduler is

    def __repr__(self) -> str:
        return f"<FarClient {self._bound[0] or 'none'}>"

    def bind(self, session: Session, name: str, at: tuple[str, int], tls: Mapping[str, Any] | None) -> str:
        """Bind ``name`` to a client of the scheduler that this machine reaches ``at`` host and port. Returns why that
        cannot be, or nothing. Raises FlameError."""
        if self._session is session and self._bound == (name, at) and session.gone is None:
            return ""
        self.close()
        forward = Forwards(session).add(Spec((LOOPBACK, 0), at), reverse=True)
        try:
            address = f"{'tcp' if tls is None else 'tls'}://{LOOPBACK}:{forward.listen[1]}"
            sendmodule(session, _MODULE, inspect.getsource(far_side))
            with contextlib.closing(Calls(session, stand_in, reference)) as calls:
                push(calls, {_GIVEN: [name, address, dict(tls) if tls else None, list(sys.version_info[:2])]})
                call = f"__import__({_MODULE!r}).bind_client(globals(), *globals().pop({_GIVEN!r}))"
                why = calls.perform(["eval", call], (), "value")
        except BaseException:  # raised again, whatever it is; nothing is left
            forward.close()
            raise
        if why:
            forward.close()
            return one_line(str(why), 300)
        self._session, self._forward, self._bound = session, forward, (name, at)
        return ""

    def close(self) -> None:
        """End the client, if there is one."""
        session, forward, (name, _) = self._session, self._forward, self._bound
        self._session, self._forward, self._bound = None, None, ("", None)
        if session is None or forward is None or session.gone is not None:
            return
        with contextlib.suppress(FlameError), contextlib.closing(Calls(session, stand_in, reference)) as calls:
            calls.perform(["eval", f"__import__({_MODULE!r}).end_client(globals(), {name!r})"], (), "value")
        forward.close()
