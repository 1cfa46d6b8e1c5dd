"""Names of files and folders from the other side: what they may be, and how they are written on the wire.

Both sides import it. Names are bytes here, as the system has them, and text on the wire (``to_wire``), so that any name
can be sent. ``check_name`` refuses names such as ``../x``, and ``check_link`` links that lead out of their folder.
"""

import errno
import os

MAX_NAME = 255
_WINDOWS_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [name + digit for name in ("COM", "LPT") for digit in "123456789\u00b9\u00b2\u00b3"]
)


class Refused(Exception):
    """Something that cannot be copied; the text is one clause, ``code`` is a word such as "full", or empty."""

    def __init__(self, text, code=""):
        Exception.__init__(self, text)
        self.code = code


def to_wire(name):
    """A file name of this system as text; exact for any bytes."""
    return name.decode("utf-8", "surrogateescape")


def join(folder, *names):
    """The path (bytes) of what is in a folder of the other side, whose system may have other separators: all take a
    slash."""
    return b"/".join((folder.rstrip(b"/"),) + names) if names else folder


def from_wire(text):
    """The inverse of to_wire; raises Refused for text that cannot be a name."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except (AttributeError, UnicodeError):
        raise Refused("%r is not a file name" % (text,))


def shown(name):
    """A name for people: control characters that would affect a terminal are escaped."""
    text = name if isinstance(name, str) else to_wire(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def check_name(name, windows=os.name == "nt"):
    """Raise Refused unless ``name`` (bytes) is a single path component that stays inside its folder.

    Control characters, line breaks and text direction marks are allowed and shown escaped.  On Windows they are
    refused, as are names of devices and drives, and names that end in a dot or a blank.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or len(name) > MAX_NAME:
        raise Refused("%s is not a possible file name here" % ascii(to_wire(name[:80])))
    if windows:
        text = to_wire(name)
        stem = text.split(".")[0].rstrip(" ").upper()
        if stem in _WINDOWS_DEVICES or text[-1] in ". " or any(c in '\\:*?"<>|' or c < " " for c in text):
            raise Refused("%s is not a possible file name on Windows" % ascii(text[:80]))


def check_link(folder, target, windows=os.name == "nt"):
    """Raise Refused unless a link in ``folder`` (components below the top) to ``target`` (bytes) stays inside."""
    up = 0
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    while up < len(parts) and parts[up] == b"..":
        up += 1
    out = not target or target.startswith(b"/") or up > len(folder) or b".." in parts[up:] or b"\0" in target
    if out or (windows and any(one in target for one in (b"\\", b":"))):
        raise Refused("a link that leads out of the folder, to %s" % shown(target[:200]))


def why(error):
    """An OSError as a Refused, in the system's words."""
    full = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
    text = (error.strerror or str(error)).lower()
    return Refused(text, "full" if error.errno in full else "")
