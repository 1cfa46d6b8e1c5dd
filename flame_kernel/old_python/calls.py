"""A server whose Python is too old for the agent, such as 2.7: code, modules and files by Flame's own calls.

There is no session: each call stands alone, its output comes at its end, and it cannot be stopped or asked. Variables
of `execute`, `evaluate` and the console stay until `close`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import secrets
import sys
import threading
from pathlib import Path
from typing import Any

from ..connect.target import Target
from ..errors import CannotTravel, FlameError, RemoteError, TransferError, UnsafeAnswer
from ..session.agent_client import AgentClient
from ..terminal import plain_text
from . import far_side, objects

# What calls cannot do here, for the sentence that says so; and the same for a use in which variables stay.
LIMITS = "no session, so output comes at the end, without input(), Ctrl-C, magics and variables that stay"
LIMITS_WITH_VARIABLES = "no session, so output comes at the end, without input(), Ctrl-C, magics, Tab and stand-ins"
# Bytes of a file that travel in one call.
PIECE = 256 << 10
# The most pieces of output that one answer may have.
_PARTS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Ran:
    """What came of a call: its output in pieces (``stdout`` or ``stderr``, text), its exit status, what it raised.

    more  whether a console needs further lines
    """

    parts: list[tuple[str, str]]
    code: int
    raised: RemoteError | None
    more: bool

    def show(self) -> None:
        """Write the output to the streams of this process."""
        for name, text in self.parts:
            stream = sys.stderr if name == "stderr" else sys.stdout
            stream.write(text)
            stream.flush()


class OldPython(contextlib.AbstractContextManager["OldPython"]):
    """The server of ``target``; each call raises what a connection raises. It may be used on any thread.

    A call that Ctrl-C leaves goes on there; the next one has a connection of its own, and waits for it.
    """

    def __init__(self, target: Target) -> None:
        self._target, self._space = target, secrets.token_hex(8)
        self._lock = threading.Lock()
        self._client: AgentClient | None = None
        self._is_fresh = True
        self.location = ""
        with self._lock:
            found = self._connected().connection.call("evaluate", "list(__import__('sys').version_info[:3])")
        self.version = ".".join(map(str, found)) if isinstance(found, list) else "unknown"
        if not self.version.replace(".", "").isdigit() or len(self.version) > 20:
            self.version = "unknown"

    def __repr__(self) -> str:
        return f"<OldPython {self.version} at {self.location}>"

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the variables there, and close the connection. Does not raise if the server is gone."""
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(FlameError), contextlib.closing(client):
            if not self._is_fresh:
                client.connection.invoke(f"{far_side.NAME}.answer", _request("leave", self._space), timeout=5.0)

    def _connected(self) -> AgentClient:
        if self._client is None:
            client = AgentClient(self._target)
            try:
                client.connection.call("execute", far_side.PUSH)
            except BaseException:  # raised again, whatever it is; the connection does not stay
                client.close()
                raise
            self._client, self.location = client, str(client.target.location)
        return self._client

    def _ask(self, name: str, *args: Any) -> dict[str, Any]:
        with self._lock:
            client = self._connected()
            try:
                answer = client.connection.invoke(f"{far_side.NAME}.answer", _request(name, *args), timeout=None)
            except RemoteError:
                raise
            except BaseException as e:  # raised again; the answer that may still come belongs to no other call
                self._client = None
                client.close()
                if isinstance(e, KeyboardInterrupt):
                    raise KeyboardInterrupt("it goes on there: a Python this old cannot be stopped from here") from None
                raise
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UnsafeAnswer(self.location, "the answer is not what was asked for")
        if "error" in found:
            raise TransferError(plain_text(str(found["error"])))
        return found

    def _ran(self, found: dict[str, Any]) -> Ran:
        parts, code, raised = found.get("parts"), found.get("code"), found.get("raised")
        if not isinstance(parts, list) or len(parts) > _PARTS:
            raise UnsafeAnswer(self.location, "output of the wrong shape")
        told = []
        for one in parts:
            if not (isinstance(one, list) and len(one) == 2 and all(isinstance(word, str) for word in one)):
                raise UnsafeAnswer(self.location, "output of the wrong shape")
            told.append((one[0], plain_text(one[1])))
        error = None
        if isinstance(raised, list) and len(raised) == 3 and all(isinstance(word, str) for word in raised):
            error = RemoteError(*map(plain_text, raised))
        return Ran(told, code & 0xFF if isinstance(code, int) else 1, error, found.get("more") is True)

    def _value(self, found: dict[str, Any], what: str) -> Any:
        """The value of an answer, once its output is shown; raises what it raised there."""
        ran = self._ran(found)
        ran.show()
        if ran.raised is not None:
            raise ran.raised
        if "cannot" in found:
            kind = plain_text(str(found["cannot"]))[:200]
            raise CannotTravel(
                f"{what} is a {kind}, and of those only plain values come from a Python this old; ask for its repr() "
                "or for a value of it"
            )
        if "value" not in found:
            raise UnsafeAnswer(self.location, "an answer without a value")
        try:
            return objects.decoded(found["value"])
        except (ValueError, TypeError, RecursionError) as e:
            raise UnsafeAnswer(self.location, f"a value of the wrong shape: {e}") from None

    # -- code ----------------------------------------------------------------------------------------------------------

    def run(self, source: str, expression: bool = False, stays: bool = False) -> Ran:
        """Run statements, the last expression shown as by a cell; or show the repr of an ``expression``.

        stays  whether it runs with the variables of earlier calls, and leaves its own
        """
        mode = "eval" if expression else "cell"
        return self._ran(self._ask("run", source, mode, *(self._variables() if stays else (None, False))))

    def line(self, source: str) -> Ran:
        """Run one statement of a console; ``more`` if it is not complete."""
        return self._ran(self._ask("line", source, *self._variables()))

    def _variables(self) -> tuple[str, bool]:
        fresh, self._is_fresh = self._is_fresh, False
        return self._space, fresh

    def execute(self, code: str) -> None:
        """Run statements; what they print is shown at their end."""
        ran = self.run(code, stays=True)
        ran.show()
        if ran.raised is not None:
            raise ran.raised
        if ran.code:
            raise RemoteError("SystemExit", str(ran.code), "")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, if it is plain. A ``str`` of Python 2 is text here if it is UTF-8, else bytes."""
        return self._value(self._ask("evaluate", expression, *self._variables()), "the value")

    # -- modules -------------------------------------------------------------------------------------------------------

    def module(self, name: str) -> objects.FarName:
        """A module there: ``module("os").listdir("/")``; what its functions return comes as a value."""
        found = objects.FarName(self, name, ())
        self.look(name, ())
        return found

    def builtin(self, name: str) -> Any:
        """A builtin there: ``builtin("max")([1, 2])``."""
        return self.look(None, (name,))

    def look(self, module: str | None, path: tuple[str, ...]) -> Any:
        """The value at a path of a module (None: the builtins); a `FarName` for a function, class or module."""
        found = self._ask("look", module, path)
        if "stays" in found:
            return objects.FarName(self, module, path)
        return self._value(found, ".".join((*filter(None, [module]), *path)))

    def call(self, module: str | None, path: tuple[str, ...], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The value that a function there returns. Raises CannotTravel for what is not plain, on either side."""
        given = [objects.encoded(one) for one in args], [[key, objects.encoded(one)] for key, one in named.items()]
        return self._value(self._ask("call", module, path, *given), f"what {path[-1] if path else module} returns")

    # -- files ---------------------------------------------------------------------------------------------------------

    def put(self, source: str, destination: str) -> int:
        """Copy one file; its size in bytes."""
        path = Path(source).expanduser()
        if not path.is_file():
            raise TransferError(f"{source} is not a file; to a Python this old, files go one by one")
        if destination.endswith("/"):
            destination += path.name
        part, at = f".{secrets.token_hex(4)}.part", 0
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while True:
                data = file.read(PIECE)
                last = at + len(data) >= size or not data
                self._ask("write", destination, base64.b64encode(data).decode(), at == 0, part, last)
                at += len(data)
                if last:
                    return at

    def get(self, source: str, destination: str) -> int:
        """Copy one file to here; its size in bytes."""
        path = Path(destination).expanduser()
        if path.is_dir():
            path = path / Path(source).name
        part, size = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part"), 0
        try:
            with open(part, "xb") as file:
                while True:
                    text = self._ask("read", source, size, PIECE).get("data")
                    data = base64.b64decode(text) if isinstance(text, str) else b""
                    if not data:
                        break
                    file.write(data)
                    size += len(data)
            part.replace(path)
        except OSError as e:
            raise TransferError(f"cannot write {path}: {e.strerror}; name another destination") from e
        finally:
            part.unlink(missing_ok=True)
        return size


def _request(name: str, *args: Any) -> bytes:
    return json.dumps([name, args]).encode()


def is_old(error: FlameError) -> bool:
    """Whether a session could not be opened because of the Python there."""
    return getattr(error, "cause", "") == "old_python"
