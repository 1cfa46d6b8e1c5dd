"""A server whose Python is too old for the agent, such as 2.7: code and files by Flame's own calls, and nothing more.

There is no session: each call stands alone, its output comes at its end, and it cannot be stopped or asked.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from ..connect.target import Target
from ..errors import FlameError, TransferError, UnsafeAnswer
from ..session.agent_client import AgentClient
from ..terminal import plain_text

# What a call can do here, for the sentence that says what is missing.
LIMITS = "no session, so output comes at the end, without input(), Ctrl-C, magics and variables that stay"
# Bytes of a file that travel in one call.
PIECE = 256 << 10

_NAME = "flame_plain_calls"

# What runs there, on Python 2.7 and 3. Meanwhile sys.stdout and sys.stderr of the server are its own, a call at a time.
_SOURCE = """
import base64, json, os, sys, threading, traceback
_lock = threading.Lock()

class _Kept(object):
    def __init__(self):
        self.parts, self.encoding, self.errors, self.softspace = [], "utf-8", "replace", 0
    def write(self, text):
        self.parts.append(text if isinstance(text, type(u"")) else text.decode("utf-8", "replace"))
    def flush(self):
        pass
    def isatty(self):
        return False

def _run(source, mode):
    kept, code = _Kept(), 0
    with _lock:
        before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = kept
        try:
            space = {"__name__": "__main__", "__builtins__": __builtins__}
            try:
                found = eval(compile(source, "<flame>", mode, 0, True), space)
                if mode == "eval":
                    kept.write(repr(found) + "\\n")
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else int(e.code is not None)
            except BaseException:  # whatever the code of the user raises is its output
                kind, value, where = sys.exc_info()
                traceback.print_exception(kind, value, where and where.tb_next)
                code = 1
        finally:
            sys.stdout, sys.stderr = before
    return {"text": u"".join(kept.parts), "code": code}

def _read(path, at, size):
    with open(os.path.expanduser(path), "rb") as f:
        f.seek(at)
        return {"data": base64.b64encode(f.read(size)).decode("ascii")}

def _write(path, data, first, part, last):
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        raise IOError("it is a folder; name the file")
    with open(path + part, "wb" if first else "ab") as f:
        f.write(base64.b64decode(data))
    if last:
        if os.name == "nt" and os.path.exists(path):
            os.remove(path)
        os.rename(path + part, path)
    return {}

def answer(request):
    try:
        name, args = json.loads(request.decode("utf-8"))
        found = {"run": _run, "read": _read, "write": _write}[name](*args)
    except Exception:  # whatever fails is the answer
        found = {"error": "%s: %s" % (sys.exc_info()[0].__name__, sys.exc_info()[1])}
    return json.dumps(found).encode("ascii")
"""

# Flame's own sendmodule takes no name from a Python 3.
_PUSH = (
    f"exec({_SOURCE!r}, __import__('sys').modules.setdefault({_NAME!r}, type(__import__('sys'))({_NAME!r})).__dict__)"
)


class OldPython(contextlib.AbstractContextManager["OldPython"]):
    """The server of ``target``; each call raises what a connection raises, and TransferError for a file."""

    def __init__(self, target: Target) -> None:
        self._client = AgentClient(target)
        try:
            self._client.connection.call("execute", _PUSH)
        except BaseException:  # raised again, whatever it is; the connection does not stay
            self._client.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _ask(self, name: str, *args: Any) -> dict[str, Any]:
        answer = self._client.connection.invoke(f"{_NAME}.answer", json.dumps([name, args]).encode(), timeout=None)
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UnsafeAnswer(str(self._client.target), "the answer is not what was asked for")
        if "error" in found:
            raise TransferError(plain_text(str(found["error"])))
        return found

    def run(self, source: str, expression: bool = False) -> tuple[str, int]:
        """Run statements, or show the repr of an expression: the text of stdout and stderr, and the exit status."""
        found = self._ask("run", source, "eval" if expression else "exec")
        text, code = found.get("text"), found.get("code")
        return plain_text(text) if isinstance(text, str) else "", code & 0xFF if isinstance(code, int) else 1

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


def is_old(error: FlameError) -> bool:
    """Whether a session could not be opened because of the Python there."""
    return getattr(error, "cause", "") == "old_python"
