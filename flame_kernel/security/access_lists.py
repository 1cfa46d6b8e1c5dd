"""Who else may read a file on Windows, where access lists take the place of modes; and files that only the user may.

Nothing here is called on another system. Beside the user himself, the system and administrators may do everything, as
root may elsewhere.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FILE, _LIST = 1, 0x4  # SE_FILE_OBJECT, DACL_SECURITY_INFORMATION
_PROTECTED = 0x80000000  # PROTECTED_DACL_SECURITY_INFORMATION: nothing is inherited from the folder
_QUERY, _USER = 0x8, 1  # TOKEN_QUERY, TokenUser
_REVISION = 1  # SDDL_REVISION_1
# Who is no stranger, as these lists write them: the system, administrators (also a domain's), and the owner.
_TRUSTED = frozenset(("SY", "BA", "LA", "DA", "EA", "OW", "CO"))
_NAMES = {"WD": "everyone", "AU": "all who log in", "BU": "all users", "IU": "all who sit at it", "BG": "guests"}
# An entry that allows something, but not one for files to come only (IO).
_ENTRY = re.compile(r"\(A;(?P<flags>[^;]*);(?P<rights>[^;]*);[^;]*;[^;]*;(?P<who>[^;)]*)[^)]*\)")
# Rights that neither read nor change a file: its attributes, its access list, and that one may wait for it.
_HARMLESS = 0x20000 | 0x100000 | 0x80 | 0x20 | 0x8
_RIGHTS = re.compile(r"[A-Z]{2}")
_HARMLESS_WORDS = frozenset(("RC",))


def others(path: Path) -> list[str]:
    """Who may read or write the file besides the user, the system and administrators. Raises OSError.

    A file system without access lists (FAT) is open to everyone.
    """
    text = _access_list(path)
    if "D:" not in text or "NO_ACCESS_CONTROL" in text:
        return [_NAMES["WD"]]
    own, found = _own_id(), []
    for entry in _ENTRY.finditer(text):
        who = entry["who"]
        if "IO" not in _RIGHTS.findall(entry["flags"]) and who not in (own, *_TRUSTED) and _matters(entry["rights"]):
            found.append(_NAMES.get(who, who))
    return list(dict.fromkeys(found))


def make_private(path: Path) -> None:
    """Let nobody else read or write the file from now on. Raises OSError."""
    text = f"D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;{_own_id()})"
    library, made = _library("advapi32"), ctypes.c_void_p()
    _check(library.ConvertStringSecurityDescriptorToSecurityDescriptorW(text, _REVISION, ctypes.byref(made), None))
    with _freed(made):
        _check(library.SetFileSecurityW(str(path), _LIST | _PROTECTED, made))


def _matters(rights: str) -> bool:
    if rights.startswith("0x"):
        return bool(int(rights, 16) & ~_HARMLESS)
    return bool(set(_RIGHTS.findall(rights)) - _HARMLESS_WORDS)


def _access_list(path: Path) -> str:
    library, found, text = _library("advapi32"), ctypes.c_void_p(), ctypes.c_void_p()
    none = None, None, None, None
    error = library.GetNamedSecurityInfoW(str(path), _FILE, _LIST, *none, ctypes.byref(found))
    if error:
        raise _error(error)
    with _freed(found):
        size = ctypes.c_ulong()
        written = library.ConvertSecurityDescriptorToStringSecurityDescriptorW(
            found, _REVISION, _LIST, ctypes.byref(text), ctypes.byref(size)
        )
        _check(written)
        return _taken(text)


def _own_id() -> str:
    """The user's security id, such as ``S-1-5-21-…-1001``."""
    library, kernel = _library("advapi32"), _library("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    token, size = ctypes.c_void_p(), ctypes.c_ulong()
    _check(library.OpenProcessToken(ctypes.c_void_p(kernel.GetCurrentProcess()), _QUERY, ctypes.byref(token)))
    try:
        library.GetTokenInformation(token, _USER, None, 0, ctypes.byref(size))  # tells its size
        user = ctypes.create_string_buffer(size.value)
        _check(library.GetTokenInformation(token, _USER, user, size, ctypes.byref(size)))
    finally:
        kernel.CloseHandle(token)
    text = ctypes.c_void_p()
    _check(library.ConvertSidToStringSidW(ctypes.c_void_p.from_buffer(user), ctypes.byref(text)))  # its first field
    return _taken(text)


# --- the system's calls


def _library(name: str) -> Any:
    """A library, loaded for us alone: others may declare its functions otherwise."""
    return getattr(ctypes, "WinDLL")(name, use_last_error=True)  # noqa: B009 - only Windows has it


def _error(number: int) -> OSError:
    return OSError(number, getattr(ctypes, "FormatError")(number))  # noqa: B009


def _check(done: int) -> None:
    if not done:
        raise _error(getattr(ctypes, "get_last_error")())  # noqa: B009


@contextmanager
def _freed(memory: ctypes.c_void_p) -> Iterator[None]:
    try:
        yield
    finally:
        _library("kernel32").LocalFree(memory)


def _taken(text: ctypes.c_void_p) -> str:
    with _freed(text):
        return ctypes.wstring_at(text.value or 0)
