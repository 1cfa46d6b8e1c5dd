"""HMAC keys and their sources: a private file, the system's keyring, the environment, or a prompt to the user.
Messages are signed and checked in ``pyro_message.py``.

A source names a place, never the key itself, so it may be written in ``targets.toml``::

    file:furnace.key        a file of mode 0600, relative to the file that names it
    keyring                 the system's keyring (the extra ``keyring``), under the target's name
    keyring:NAME            … under this name
    env:NAME                the environment variable NAME of the client
    prompt                  typed without echo whenever a session is opened

Bad input raises TargetError: one sentence with the next step. No error text repeats what might be a key.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..agent.wire.launch import without_secrets
from ..errors import TargetError
from ..security import access_lists, private_files
from .installation import pip_install

# Asks the user: ``ask(prompt, password)`` returns the typed line, without echo if ``password``, or None if the user
# gave none or cannot be asked now. It blocks, and may be called on any thread.
Ask = Callable[[str, bool], "str | None"]

KEYRING_SERVICE = "remote-flame"

_MAX_KEY_FILE = 4096  # bytes; a longer file is not a key but a mistake
_SHORT_KEY = 16  # bytes: 128 bits
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENV_SOURCE = re.compile(rf"\benv:({_ENV_NAME.pattern})")
_MAKE_KEY = "python -c 'import secrets; print(secrets.token_hex(32))'"


# The environment variables that were named as the source of a key. One set, because a process has one environment.
_variables: set[str] = set()


def note_variables(text: str) -> None:
    """Remember each NAME of ``env:NAME`` in ``text`` (a source, or a file with sources): that variable holds a key."""
    _variables.update(_ENV_SOURCE.findall(text))


def keyless(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without the variables that hold keys, for a program that we start."""
    return dict(without_secrets(environ, _variables))


# Matches ``--key`` and its value as ``words_of`` of the commands reads them. It also matches mistyped forms: quotes
# around or inside the option, capitals, blanks around "=", an empty word before the value, a quote that is not closed.
_KEY_WORD = re.compile(
    r"""
    (?P<option> (?P<quote>["']) --key [\s=:\\]+ ) (?P<inside> (?:(?!(?P=quote))[^\n])+ )
  | (?P<before> -- ["'\\]* k ["'\\]* e ["'\\]* y ["'\\]* (?:[\s=:\\] | "" | '')+ )
    (?P<value> (?: \\[ \t'"] | "(?:\\"|[^"\n])*(?:"|$) | '(?:\\'|[^'\n])*(?:'|$) | [^\s'"] )+ )
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_SOURCE = re.compile(r"[\"']?(?:prompt|keyring|(?:keyring|env|file):.+)[\"']?")


def has_key(text: str) -> bool:
    """Whether a command line has a key itself where only the key's source belongs (``--key SOURCE``)."""
    return any(_SOURCE.fullmatch(found["value"] or found["inside"]) is None for found in _KEY_WORD.finditer(text))


def without_key(text: Any, same_length: bool = False) -> Any:
    """``text`` with such a key replaced by "…", if it is a command of ours. Only this form is shown, stored or sent.

    With ``same_length`` the rest of the text keeps its positions.
    """
    # A front end may send anything as code; other code reports what is not text.
    if not isinstance(text, str) or "flame" not in text.lower() or not has_key(text):
        return text

    def hidden(found: re.Match[str]) -> str:
        value = found["value"] or found["inside"]
        if _SOURCE.fullmatch(value):
            return found[0]
        return (found["before"] or found["option"]) + ("…" * len(value) if same_length else "…")

    return _KEY_WORD.sub(hidden, text)


def hide_keys(record: logging.LogRecord) -> bool:
    """A filter for a logger: takes the key out of a command line in a message."""
    text = record.getMessage()
    if without_key(text) != text:
        record.msg, record.args = without_key(text), ()
    return True


class Secret:
    """A key that is never displayed: not by repr, str or format. It cannot be pickled or copied."""

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
        return hash(Secret)  # the same for all: a hash of the value would reveal something about it

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")


def check_source(source: str, whose: str) -> str:
    """Return ``source`` if it is valid; else raise TargetError, which does not show it: it may be the key itself."""
    kind, _, rest = source.partition(":")
    if (
        (source in ("prompt", "keyring"))
        or (kind in ("file", "keyring") and rest)
        or (kind == "env" and _ENV_NAME.fullmatch(rest))
    ):
        note_variables(source)
        return source
    raise TargetError(
        f"{whose} must say where the key is, not the key itself; save the key in a file of mode 0600 and give that "
        "as key_file, "
        'or say key = "keyring", "prompt" or "env:NAME"'
    )


def from_source(
    source: str, name: str, *, environ: Mapping[str, str], ask: Ask | None, folder: Path | None = None
) -> tuple[Secret, tuple[str, ...]]:
    """The key from ``source`` for the target called ``name``, and warnings; TargetError if there is no key.

    A relative file name is relative to ``folder``.
    """
    kind, _, rest = check_source(source, f"the key of {name}").partition(":")
    if kind == "file":
        path = Path(os.path.expanduser(rest))
        return read_key(folder / path if folder else path)
    if kind == "env":
        value = environ.get(rest)
        if value is None:
            raise TargetError(f"the key of {name} should be in ${rest}, which is not set; set it, or name a key_file")
        return _checked(value.encode("utf-8", "surrogateescape"), f"the key in ${rest}")
    if kind == "keyring":
        return _checked(_from_keyring(rest or name), f"the key of {rest or name} in the keyring")
    typed = ask(f"Key of the flame server {name}: ", True) if ask else None
    if typed is None:
        raise TargetError(
            f"the key of {name} has to be typed, and nobody can be asked now; connect to it where a prompt can be "
            f"answered (%flame connect {name}), or name a key_file"
        )
    return _checked(typed.encode("utf-8", "surrogatepass"), "the key typed here")


def read_key(path: Path) -> tuple[Secret, tuple[str, ...]]:
    """The key in the file at ``path`` without its trailing newline, and warnings for the user; raises TargetError.

    Only its owner may have access to the file, as ssh requires of a private key.
    """
    raw, status = read_small(path, "the key file", _MAX_KEY_FILE)
    check_private(path, "the key file", status)
    key = raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
    if not key:
        raise TargetError(f"the key file {path} is empty; put the server's PYRO_HMAC_KEY into it")
    return _checked(key, f"the key in {path}")


def _checked(key: bytes, what: str) -> tuple[Secret, tuple[str, ...]]:
    if not key:
        raise TargetError(f"{what} is empty, which to Pyro means no key at all; give the server's PYRO_HMAC_KEY")
    if len(key) < _SHORT_KEY:
        enough = f"use {_SHORT_KEY} or more, such as those of:\n{_MAKE_KEY}"
        return Secret(key), (f"{what} has only {len(key)} bytes and can be guessed;\n{enough}",)
    return Secret(key), ()


# --- the keyring


def _keyring() -> Any:
    try:
        import keyring
    except ModuleNotFoundError as error:
        if error.name == "keyring":
            raise TargetError(
                f"the keyring needs a package that is not installed; run: {pip_install('keyring')}"
            ) from error
        raise
    return keyring


def _keeps_nothing() -> str:
    """Why no key can be stored, if the keyring's backend stores nothing; else empty."""
    backend = type(_keyring().get_keyring())
    if backend.__module__ in ("keyring.backends.null", "keyring.backends.fail"):
        where = f"({backend.__module__})"
        return f"the keyring cannot store anything here {where}; configure another backend, or use a key_file"
    return ""


def _from_keyring(name: str) -> bytes:
    try:
        reason = _keeps_nothing()
        value = None if reason else _keyring().get_password(KEYRING_SERVICE, name)
    except TargetError:
        raise
    except Exception as error:  # backends raise any exception: no D-Bus, a locked collection, a broken file
        raise TargetError(
            f"the keyring did not give the key of {name} ({type(error).__name__}); unlock it, or name a key_file"
        ) from error
    if reason:
        raise TargetError(reason)
    if value is None:
        raise TargetError(f"the keyring has no key for {name}; store it with: keyring set {KEYRING_SERVICE} {name}")
    return str(value).encode("utf-8", "surrogatepass")


def store_in_keyring(name: str, key: Secret) -> None:
    """Store ``key`` in the system's keyring, where ``key = "keyring:NAME"`` finds it; TargetError if that fails."""
    try:
        reason = _keeps_nothing()
        text = key.reveal().decode("utf-8")
        if not reason:
            _keyring().set_password(KEYRING_SERVICE, name, text)
            if _keyring().get_password(KEYRING_SERVICE, name) != text:  # a chain of backends may be empty
                reason = "the keyring took the key but did not keep it; configure its backend, or use a key_file"
    except UnicodeDecodeError as error:
        raise TargetError("the keyring stores text, and this key is not; keep it in a file of mode 0600") from error
    except TargetError:
        raise
    except Exception as error:  # each keyring backend has errors of its own
        raise TargetError(
            f"the keyring did not keep the key of {name} ({type(error).__name__}); unlock it, or use a key_file"
        ) from error
    if reason:
        raise TargetError(reason)


# --- private files


def read_small(path: Path, what: str, limit: int) -> tuple[bytes, os.stat_result]:
    """The bytes of a small file, and the status of the same open file, even if its name is replaced meanwhile."""
    try:
        descriptor = os.open(path, private_files.READ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TargetError(f"cannot read {what} {path}: {reason}; check its name and its owner") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise TargetError(f"{what} {path} is not a regular file; name one")
        if status.st_size > limit:
            raise TargetError(f"{what} {path} is longer than {limit} bytes; is it the right file?")
        data = b""
        while len(data) <= limit and (piece := os.read(descriptor, limit)):
            data += piece
    finally:
        os.close(descriptor)
    return data, status


def check_owned(path: Path, what: str, status: os.stat_result) -> None:
    """Raise TargetError if others than us and root own the file or can write it."""
    if not hasattr(os, "geteuid"):
        return  # on Windows modes and owners say nothing
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (os.geteuid(), 0):
        raise TargetError(
            f"{what} {path} belongs to another user ({status.st_uid}), who could change it; make a copy of your own"
        )
    if mode & 0o022:
        raise TargetError(f"{what} {path} can be written by others (mode {mode:04o}); run: chmod go-w {path}")


def check_folder(path: Path, what: str) -> None:
    """Raise TargetError if other users could replace the file at ``path``."""
    for folder in {path.absolute().parent, path.resolve().parent}:
        try:
            status = folder.stat()
        except OSError as error:
            raise TargetError(f"cannot look at the folder of {what} {path}: {error.strerror}") from error
        # In a sticky folder such as /tmp users cannot remove each other's files.
        if not status.st_mode & stat.S_ISVTX or status.st_uid != 0:
            check_owned(folder, f"the folder of {what},", status)


def check_private(path: Path, what: str, status: os.stat_result) -> None:
    """Raise TargetError if others than the owner can read or write the file, or if the owner is neither us nor root."""
    mode = stat.S_IMODE(status.st_mode)
    if os.name == "nt":
        _check_access_list(path, what)
    elif not mode & 0o077 or not hasattr(os, "geteuid"):
        check_owned(path, what, status)
    else:
        raise TargetError(f"{what} {path} is open to others (mode {mode:04o}); run: chmod 600 {path}")


def _check_access_list(path: Path, what: str) -> None:
    only_you = f'icacls "{path}" /inheritance:r /grant:r "%USERNAME%:F"'
    try:
        others = access_lists.others(path)
    except OSError as error:
        raise TargetError(
            f"cannot see who may read {what} {path} ({error.strerror}); keep it in your user folder"
        ) from error
    if others:
        who = ", ".join(others)
        raise TargetError(f"{what} {path} is open to others ({who}); in a command prompt, run: {only_you}")
