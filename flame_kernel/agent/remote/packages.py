"""Packages that the client sends: wheels, which we unpack into a folder of our own, one for each user and Python.

::

    ~/.local/share/remote-flame/python3.12-linux-x86_64/
        wheels/            what is being sent
        1/, 2/, …          states: each has all packages, in lib (on sys.path), bin, share and so on
        current -> 2       the state in use; where no links can be made, a file with its name
        first              if this file exists, lib comes before the host's packages on sys.path, not after them

An installation makes a new state beside the present one, then renames the link, so it takes effect as a whole or not at
all.  Unchanged files are hard links.  When the last package is removed, the folder is removed too.

The requests, with an ``op`` each: ``facts``, ``begin`` (make the folder for wheels), ``install``, ``uninstall``.
"""

import hashlib
import io
import os
import platform
import re
import shutil
import struct
import sys
import sysconfig
import time
import zipfile

from .package_states import Lock, Refused, State, current, metadata, plain

KINDS = ("packages",)
_NAME = "remote-flame"
# After so many seconds nobody goes on sending a wheel.
_FORGOTTEN = 86400
# How many sessions of this process use the packages.
_users = [0]


# -- the import path ---------------------------------------------------------------------------------------------------


def use(owns_process):
    """A session begins in this process: put the packages on the import path, if there are any."""
    _users[0] += 1
    _put_on_path(owns_process)


def leave():
    """A session has ended; after the last one the import path is as it was."""
    _users[0] -= 1
    if not _users[0]:
        sys.path[:] = [one for one in sys.path if not _is_ours(one)]


def _is_ours(entry):
    return isinstance(entry, str) and entry.startswith(_prefix() + os.sep)


def _put_on_path(owns_process):
    prefix = _prefix()
    entry = os.path.join(current(prefix), "lib")
    first = os.path.exists(os.path.join(prefix, "first"))
    if not os.path.isdir(entry) or (entry in sys.path and not first):
        return
    sys.path[:] = [one for one in sys.path if not _is_ours(one)]
    at = len(sys.path)
    if first:
        sites = [n for n, one in enumerate(sys.path) if os.path.basename(one) in ("site-packages", "dist-packages")]
        at = sites[0] if sites else at
    sys.path.insert(at, entry)
    scripts = os.path.join(current(prefix), "bin")
    if owns_process and scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, (os.environ.get("PATH"), scripts)))


def _prefix():
    """Our folder for this user and this Python."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    version = "%d.%d" % sys.version_info[:2]
    kind = "python" if sys.implementation.name == "cpython" else sys.implementation.name
    name = "%s%s%s-%s" % (kind, version, getattr(sys, "abiflags", ""), sysconfig.get_platform())
    return os.path.join(data, _NAME, name)


# -- requests ----------------------------------------------------------------------------------------------------------


def reply(request, owns_process):
    """The content of the reply to a request of kind ``packages``."""
    try:
        if request["op"] == "facts":
            _put_on_path(owns_process)  # another session may have sent the first ones
            return dict(_facts(), status="ok")
        if request["op"] == "begin":
            for folder in (_prefix(), os.path.join(_prefix(), "wheels")):
                os.makedirs(folder, 0o700, exist_ok=True)
            return {"status": "ok"}
        with Lock(_prefix()):
            if request["op"] == "install":
                found = _install(request["wheels"], request.get("first", False))
            else:
                found = _uninstall(request["names"])
        if request["op"] == "install":
            _put_on_path(owns_process)
        for finder in sys.meta_path:
            getattr(finder, "invalidate_caches", lambda: None)()
        return dict(found, status="ok")
    except (Refused, OSError, zipfile.BadZipFile) as e:
        text = str(e) if isinstance(e, Refused) else "%s: %s" % (_prefix(), getattr(e, "strerror", None) or e)
        return {"status": "error", "ename": "Refused", "evalue": text, "traceback": []}


def _facts():
    prefix = _prefix()
    below = prefix
    while not os.path.exists(below) and os.path.dirname(below) != below:
        below = os.path.dirname(below)
    ours = os.path.join(current(prefix), "lib")
    return {
        "prefix": prefix,
        "exists": os.path.isdir(current(prefix)),
        "begun": os.path.isdir(prefix),
        "first": os.path.exists(os.path.join(prefix, "first")),
        "writable": os.access(below, os.W_OK | os.X_OK),
        "free": shutil.disk_usage(below).free,
        "ours": _distributions([ours]),
        "requires": _requires(ours),
        "host": _distributions([one for one in sys.path if one and one != ours]),
        "version": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "abiflags": getattr(sys, "abiflags", ""),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "soabi": sysconfig.get_config_var("SOABI") or "",
        "platform": sysconfig.get_platform(),
        "bits": struct.calcsize("P") * 8,
        "libc": list(_libc()),
        "mac": platform.mac_ver()[0],
        "environment": _environment(),
    }


def _environment():
    """The values for the markers of requirements (PEP 508)."""
    version = "{0.major}.{0.minor}.{0.micro}".format(sys.implementation.version)
    if sys.implementation.version.releaselevel != "final":
        version += sys.implementation.version.releaselevel[0] + str(sys.implementation.version.serial)
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": version,
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "platform_python_implementation": platform.python_implementation(),
        "python_version": "%d.%d" % sys.version_info[:2],
        "sys_platform": sys.platform,
    }


def _libc():
    """The C library, such as ``("glibc", "2.36")`` or ``("musl", "1.2")``; empty if unknown."""
    try:
        name, _, version = os.confstr("CS_GNU_LIBC_VERSION").partition(" ")
        return name, version
    except (AttributeError, OSError, ValueError, TypeError):
        pass
    for folder in ("/lib", "/usr/lib"):
        try:
            found = [one for one in os.listdir(folder) if one.startswith("ld-musl-")]
        except OSError:
            found = []
        if found:
            return "musl", "1.2"
    return "", ""


def _distributions(folders):
    """``{name: version}`` of what is installed in the folders; the first folder with a name counts, as in imports."""
    found = {}
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for one in names:
            if one.endswith((".dist-info", ".egg-info")):
                name, version = metadata(os.path.join(folder, one))
                if name:
                    found.setdefault(plain(name), version)
    return found


def _requires(folder):
    """``{name: [requirement, …]}`` of what is installed in the folder."""
    found = {}
    for one in os.listdir(folder) if os.path.isdir(folder) else ():
        if one.endswith(".dist-info"):
            path = os.path.join(folder, one)
            with io.open(os.path.join(path, "METADATA"), encoding="utf-8", errors="replace") as file:
                head = file.read().split("\n\n")[0]
            found[plain(metadata(path)[0])] = re.findall(r"^Requires-Dist:[ \t]*(.+)", head, re.MULTILINE)
    return found


# -- installing and removing -------------------------------------------------------------------------------------------


def _install(wheels, first):
    """Install wheels from the folder ``wheels``, given as ``[[file name, SHA-256], …]``."""
    prefix = _prefix()
    inbox = os.path.join(prefix, "wheels")
    paths = [os.path.join(inbox, os.path.basename(name)) for name, _ in wheels]
    missing = [os.path.basename(path) for path in paths if not os.path.exists(path)]
    if missing:
        return {"missing": missing}
    try:
        for path, (name, digest) in zip(paths, wheels):
            if _sha256(path) != digest:
                raise Refused("%s did not arrive as it was sent" % name)
        replaced = {plain(os.path.basename(path).split("-")[0]) for path in paths}
        with State(prefix) as state:
            imported = state.copy(without=replaced)
            for path in paths:
                state.unpack(path)
            state.take_effect()
    finally:
        _clear(inbox, paths)
    if first:
        io.open(os.path.join(prefix, "first"), "w").close()
    return {"ours": _distributions([os.path.join(current(prefix), "lib")]), "imported": imported, "pth": state.pth}


def _clear(inbox, paths):
    """Remove wheels that are done with, and those that nobody goes on sending; another session may be sending some."""
    for path in paths + [os.path.join(inbox, one) for one in (os.listdir(inbox) if os.path.isdir(inbox) else ())]:
        try:
            if path in paths or time.time() - os.stat(path).st_ctime > _FORGOTTEN:
                os.unlink(path)
        except OSError:
            pass  # it is gone already


def _uninstall(names):
    prefix = _prefix()
    ours = _distributions([os.path.join(current(prefix), "lib")])
    names = {plain(name) for name in names} if names is not None else set(ours)
    missing = sorted(names - set(ours))
    if missing:
        are = "are" if len(missing) > 1 else "is"
        raise Refused("%s %s not among the packages that were sent there" % (", ".join(missing), are))
    if names == set(ours):
        sys.path[:] = [one for one in sys.path if not _is_ours(one)]
        for one in os.listdir(prefix):  # the lock removes the rest
            path = os.path.join(prefix, one)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif one != "lock":
                os.unlink(path)
        return {"ours": {}, "removed": sorted(names)}
    with State(prefix) as state:
        state.copy(without=names)
        state.take_effect()
    return {"ours": _distributions([os.path.join(current(prefix), "lib")]), "removed": sorted(names)}


def _sha256(path):
    total = hashlib.sha256()
    with io.open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            total.update(piece)
    return total.hexdigest()
