"""HMAC keys and where they come from: a private file, the system's keyring, the environment, or the user's fingers.

A source is a word for a place, never the key itself, so it may stand in ``targets.toml``::

    file:furnace.key        a file of mode 0600, relative to the file that names it
    keyring                 the system's keyring (the extra ``keyring``), under the target's name
    keyring:NAME            … under this name
    env:NAME                the environment variable NAME of the client
    prompt                  asked without echo whenever a session is opened

Bad input is always a TargetError, one sentence with the next step; none of them repeats what might be a key.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..errors import TargetError

# Asks the user: ``ask(prompt, password)`` is the line that was typed, unseen if ``password``. May be called on any
# thread, and blocks; None where the user gave none, or cannot be asked now.
Ask = Callable[[str, bool], "str | None"]

KEYRING_SERVICE = "remote-flame"

_MAX_KEY_FILE = 4096  # bytes; a file longer than that is no key but a mistake
_SHORT_KEY = 16  # bytes: 128 bits
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAKE_KEY = "python -c 'import secrets; print(secrets.token_hex(32))'"


class Secret:
    """A key that does not show: not in repr, not in str or a format, and never in a pickle or a copy of one."""

    __slots__ = ("__value",)

    def __init__(self, value: bytes) -> None:
        self.__value = bytes(value)

    def reveal(self) -> bytes:
        """The key itself."""
        return self.__value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.__value == other.__value

    def __hash__(self) -> int:
        return hash(Secret)  # the same for all: a hash of the value would tell something about it

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")


def _refuse(sentence: str) -> NoReturn:
    raise TargetError(sentence)


def check_source(source: str, whose: str) -> str:
    """``source``, if it is one; else TargetError, which does not show it: it may be the key itself."""
    kind, _, rest = source.partition(":")
    if (
        (source in ("prompt", "keyring"))
        or (kind in ("file", "keyring") and rest)
        or (kind == "env" and _ENV_NAME.fullmatch(rest))
    ):
        return source
    _refuse(
        f"{whose} holds a key itself, or no source of one; put the key in a file of mode 0600 and name it as key_file, "
        'or say key = "keyring", "prompt" or "env:NAME"'
    )


def from_source(
    source: str, name: str, *, environ: Mapping[str, str], ask: Ask | None, folder: Path | None = None
) -> tuple[Secret, tuple[str, ...]]:
    """The key that ``source`` leads to, for the target called ``name``, and warnings; TargetError where there is none.

    ``folder`` is what a relative file is relative to.
    """
    kind, _, rest = check_source(source, f"the key of {name}").partition(":")
    if kind == "file":
        path = Path(os.path.expanduser(rest))
        return read_key(folder / path if folder else path)
    if kind == "env":
        value = environ.get(rest)
        if value is None:
            _refuse(f"the key of {name} is to come from ${rest}, which is not set; set it, or name a key_file")
        return _checked(value.encode("utf-8", "surrogateescape"), f"the key in ${rest}")
    if kind == "keyring":
        return _checked(_from_keyring(rest or name), f"the key of {rest or name} in the keyring")
    typed = ask(f"Key of the flame server {name}: ", True) if ask else None
    if typed is None:
        _refuse(
            f"the key of {name} has to be typed, and nobody can be asked now; connect to it where a prompt can be "
            f"answered (%flame connect {name}), or name a key_file"
        )
    return _checked(typed.encode("utf-8", "surrogatepass"), "the key typed here")


def read_key(path: Path) -> tuple[Secret, tuple[str, ...]]:
    """The key in the file at ``path`` without its trailing newline, and warnings for the user; raises TargetError.

    The file must be its owner's alone, as ssh demands of a private key.
    """
    raw, mode = read_small(path, "the key file", _MAX_KEY_FILE)
    check_private(path, "the key file", mode)
    key = raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
    if not key:
        _refuse(f"the key file {path} is empty; put the server's PYRO_HMAC_KEY into it")
    return _checked(key, f"the key in {path}")


def _checked(key: bytes, what: str) -> tuple[Secret, tuple[str, ...]]:
    if not key:
        _refuse(f"{what} is empty, which to Pyro means no key at all; give the server's PYRO_HMAC_KEY")
    if len(key) < _SHORT_KEY:
        enough = f"use {_SHORT_KEY} or more, such as those of: {_MAKE_KEY}"
        return Secret(key), (f"{what} has only {len(key)} bytes and can be guessed; {enough}",)
    return Secret(key), ()


# --- the keyring


def _keyring() -> Any:
    try:
        import keyring
    except ImportError as error:
        raise TargetError(
            "the keyring needs a package that is not installed; run: pip install 'remote-flame[keyring]'"
        ) from error
    return keyring


def _from_keyring(name: str) -> bytes:
    try:
        value = _keyring().get_password(KEYRING_SERVICE, name)
    except TargetError:
        raise
    except Exception as error:  # backends raise what they like: no D-Bus, a locked collection, a broken file
        raise TargetError(
            f"the keyring gives no key for {name} ({type(error).__name__}); unlock it, or name a key_file"
        ) from error
    if value is None:
        _refuse(f"the keyring has no key for {name}; store it with: keyring set {KEYRING_SERVICE} {name}")
    return str(value).encode("utf-8", "surrogatepass")


def store_in_keyring(name: str, key: Secret) -> None:
    """Keep ``key`` in the system's keyring, where ``key = "keyring:NAME"`` finds it; TargetError if it cannot be."""
    try:
        _keyring().set_password(KEYRING_SERVICE, name, key.reveal().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TargetError("the keyring keeps text, and this key is none; keep it in a file of mode 0600") from error
    except TargetError:
        raise
    except Exception as error:  # each keyring backend has errors of its own
        raise TargetError(
            f"the keyring did not keep the key of {name} ({type(error).__name__}); unlock it, or use a key_file"
        ) from error


# --- private files


def read_small(path: Path, what: str, limit: int) -> tuple[bytes, int]:
    """The bytes of a small file, and the mode of just that file, whatever becomes of its name meanwhile."""
    try:
        # NONBLOCK: opening a FIFO that somebody put there must not hang; for plain files it means nothing.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TargetError(f"cannot read {what} {path}: {reason}; check its name and its owner") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            _refuse(f"{what} {path} is no regular file; name one that is")
        if status.st_size > limit:
            _refuse(f"{what} {path} is longer than {limit} bytes; is it the right file?")
        data = b""
        while len(data) <= limit and (piece := os.read(descriptor, limit)):
            data += piece
    finally:
        os.close(descriptor)
    return data, stat.S_IMODE(status.st_mode)


def check_private(path: Path, what: str, mode: int) -> None:
    """TargetError where a file of this mode can be read or written by anybody but its owner."""
    if mode & 0o077:
        _refuse(f"{what} {path} is open to others (mode {mode:04o}); run: chmod 600 {path}")
