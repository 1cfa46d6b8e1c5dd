"""Packages that the client sends: wheels, which we unpack into a folder of our own, one for each user and Python.

::

    ~/.local/share/remote-flame/python3.12-linux-x86_64/
        wheels/            what is being sent
        1/, 2/, …          states: each has all packages, in lib (on sys.path), bin, share and so on
        current -> 2       the state in use
        first              if this file exists, lib comes before the host's packages on sys.path, not after them

An installation makes a new state beside the present one, then renames the link, so it takes effect as a whole or not at
all.  Unchanged files are hard links.  When the last package is removed, the folder is removed too.

The requests, with an ``op`` each: ``facts``, ``begin`` (make the folder for wheels), ``install``, ``uninstall``.
"""

import base64
import csv
import hashlib
import io
import os
import platform
import re
import shutil
import stat
import struct
import sys
import sysconfig
import time
import zipfile

KINDS = ("packages",)
_NAME = "remote-flame"
# After so many seconds nobody goes on sending a wheel.
_FORGOTTEN = 86400
# How many sessions of this process use the packages.
_users = [0]


class Refused(Exception):
    """Something cannot be installed or removed; the text is one sentence."""


# -- the import path ---------------------------------------------------------------------------------------------------


def use(owns_process):
    """A session begins in this process: put the packages on the import path, if there are any."""
    _users[0] += 1
    _put_on_path(owns_process)


def leave():
    """A session has ended; after the last one the import path is as it was."""
    _users[0] -= 1
    entry = os.path.join(_prefix(), "current", "lib")
    if not _users[0] and entry in sys.path:
        sys.path.remove(entry)


def _put_on_path(owns_process):
    prefix = _prefix()
    entry = os.path.join(prefix, "current", "lib")
    first = os.path.exists(os.path.join(prefix, "first"))
    if not os.path.isdir(entry) or (entry in sys.path and not first):
        return
    if entry in sys.path:
        sys.path.remove(entry)
    at = len(sys.path)
    if first:
        sites = [n for n, one in enumerate(sys.path) if os.path.basename(one) in ("site-packages", "dist-packages")]
        at = sites[0] if sites else at
    sys.path.insert(at, entry)
    scripts = os.path.join(prefix, "current", "bin")
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
        with _Lock(_prefix()):
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
    ours = os.path.join(prefix, "current", "lib")
    return {
        "prefix": prefix,
        "exists": os.path.isdir(os.path.join(prefix, "current")),
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
                name, version = _metadata(os.path.join(folder, one))
                if name:
                    found.setdefault(_plain(name), version)
    return found


def _requires(folder):
    """``{name: [requirement, …]}`` of what is installed in the folder."""
    found = {}
    for one in os.listdir(folder) if os.path.isdir(folder) else ():
        if one.endswith(".dist-info"):
            path = os.path.join(folder, one)
            with io.open(os.path.join(path, "METADATA"), encoding="utf-8", errors="replace") as file:
                head = file.read().split("\n\n")[0]
            found[_plain(_metadata(path)[0])] = re.findall(r"^Requires-Dist:[ \t]*(.+)", head, re.MULTILINE)
    return found


def _metadata(path):
    for last in ("METADATA", "PKG-INFO", ""):
        try:
            with io.open(os.path.join(path, last) if last else path, encoding="utf-8", errors="replace") as file:
                head = file.read(8192)
        except OSError:
            continue
        name, version = [re.search(r"^%s:\s*(\S+)" % field, head, re.MULTILINE) for field in ("Name", "Version")]
        if name and version:
            return name.group(1), version.group(1)
    return "", ""


def _plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


# -- states ------------------------------------------------------------------------------------------------------------


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
        replaced = {_plain(os.path.basename(path).split("-")[0]) for path in paths}
        with _State(prefix) as state:
            imported = state.copy(without=replaced)
            for path in paths:
                state.unpack(path)
            state.take_effect()
    finally:
        _clear(inbox, paths)
    if first:
        io.open(os.path.join(prefix, "first"), "w").close()
    return {"ours": _distributions([os.path.join(prefix, "current", "lib")]), "imported": imported, "pth": state.pth}


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
    ours = _distributions([os.path.join(prefix, "current", "lib")])
    names = {_plain(name) for name in names} if names is not None else set(ours)
    missing = sorted(names - set(ours))
    if missing:
        are = "are" if len(missing) > 1 else "is"
        raise Refused("%s %s not among the packages that were sent there" % (", ".join(missing), are))
    if names == set(ours):
        remove_all(prefix)
        return {"ours": {}, "removed": sorted(names)}
    with _State(prefix) as state:
        state.copy(without=names)
        state.take_effect()
    return {"ours": _distributions([os.path.join(prefix, "current", "lib")]), "removed": sorted(names)}


def remove_all(prefix):
    """Remove our folder, and the empty folders above it that may have been made for it."""
    entry = os.path.join(prefix, "current", "lib")
    if entry in sys.path:
        sys.path.remove(entry)
    shutil.rmtree(prefix)
    above = os.path.dirname(prefix)
    try:
        for _ in range(3):  # remote-flame, and what may have been made for it: share, .local
            os.rmdir(above)
            above = os.path.dirname(above)
    except OSError:
        pass  # not empty: packages of another Python, or files of others


class _State:
    """A new state, made beside the present one; it replaces that as a whole or not at all."""

    def __init__(self, prefix):
        self._prefix = prefix
        numbers = [int(one) for one in os.listdir(prefix) if one.isdigit()] if os.path.isdir(prefix) else []
        self.folder = os.path.join(prefix, "%d" % (max(numbers or [0]) + 1))
        self.pth = []  # packages with a .pth file
        self._done = False

    def __enter__(self):
        os.makedirs(os.path.join(self.folder, "lib"))
        return self

    def __exit__(self, kind, error, trace):
        for one in os.listdir(self._prefix):
            path = os.path.join(self._prefix, one)
            if one.isdigit() and (path != self.folder) == self._done:
                shutil.rmtree(path, ignore_errors=True)

    def copy(self, without):
        """Copy the present state, except for the packages named in ``without``; returns those that were imported."""
        old = os.path.join(self._prefix, "current")
        if not os.path.isdir(old):
            return []
        lib, left, imported = os.path.join(old, "lib"), set(), []
        for one in os.listdir(lib):
            name = _plain(_metadata(os.path.join(lib, one))[0]) if one.endswith(".dist-info") else ""
            if name in without:
                files = _recorded(os.path.join(lib, one))
                left.update(os.path.normpath(os.path.join("lib", file)) for file in files)
                if any(_is_imported(file, lib) for file in files):
                    imported.append(name)
        for top, _, files in os.walk(old):
            for name in files:
                path = os.path.join(top, name)
                relative = os.path.relpath(path, old)
                if relative not in left and not _is_cache_of(relative, left):
                    _link(path, os.path.join(self.folder, relative))
        return imported

    def unpack(self, path):
        """Unpack a wheel; each file is checked against its RECORD.

        Branches because each is something that may be wrong with a wheel.
        """
        with zipfile.ZipFile(path) as wheel:
            names = [one for one in wheel.namelist() if not one.endswith("/")]
            (info,) = {one.split("/")[0] for one in names if re.match(r"[^/]+\.dist-info/", one)} or {""}
            if not info or info + "/RECORD" not in names:
                raise Refused("%s is no wheel: it has no RECORD" % os.path.basename(path))
            sums = {row[0]: row[1] for row in csv.reader(io.StringIO(_text(wheel, info + "/RECORD"))) if len(row) == 3}
            made = []
            for name in names:
                if name.startswith(info + "/RECORD"):
                    continue
                data = wheel.read(name)
                kind, _, wanted = sums.get(name, "").partition("=")
                if not wanted or kind not in ("sha256", "sha384", "sha512"):
                    raise Refused("%s has no SHA-256 of %s in its RECORD" % (os.path.basename(path), name))
                if _digest(kind, data) != wanted:
                    raise Refused("%s in %s is not what its RECORD says" % (name, os.path.basename(path)))
                mode = wheel.getinfo(name).external_attr >> 16
                made.append(self._write(self._place(name), data, bool(mode & 0o111)))
                if re.match(r"lib/[^/]+\.pth$", made[-1]):
                    self.pth.append(_plain(info.split("-")[0]))
            if info + "/entry_points.txt" in names:
                made += self._scripts(_text(wheel, info + "/entry_points.txt"))
        self._write("lib/%s/INSTALLER" % info, b"remote-flame\n", False)
        made += ["lib/%s/INSTALLER" % info, "lib/%s/RECORD" % info]
        rows = "".join("%s,,\n" % os.path.relpath(one, "lib") for one in made)
        self._write("lib/%s/RECORD" % info, rows.encode("utf-8"), False)

    @staticmethod
    def _place(name):
        """Where a file of a wheel belongs; one in NAME.data/KIND belongs into the folder for that kind."""
        parts = name.split("/")
        if ".." in parts or name.startswith("/") or "\\" in name or ":" in parts[0]:
            raise Refused("a wheel with a file %r, which is outside of it" % name)
        if not parts[0].endswith(".data") or len(parts) < 3:
            return "/".join(["lib"] + parts)
        kind = {"purelib": ["lib"], "platlib": ["lib"], "scripts": ["bin"], "headers": ["include"], "data": []}
        if parts[1] not in kind:
            raise Refused("a wheel with files of an unknown kind %r" % parts[1])
        return "/".join(kind[parts[1]] + parts[2:])

    def _write(self, place, data, executable):
        path = os.path.join(self.folder, place)
        if place.startswith("bin/"):
            executable = True
            if data.startswith(b"#!python"):
                data = b"#!" + os.fsencode(sys.executable or "python3") + data[data.index(b"\n") :]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with io.open(path, "wb") as file:
            file.write(data)
        if executable:
            os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return place

    def _scripts(self, text):
        """Write the commands that ``entry_points.txt`` names; returns their paths."""
        made, section = [], ""
        for line in text.splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line.strip("[]").strip()
            found = re.match(r"([\w.-]+)\s*=\s*([\w.]+)\s*:\s*([\w.]+)", line)
            if section in ("console_scripts", "gui_scripts") and found:
                name, module, function = found.groups()
                lib = os.path.join(self._prefix, "current", "lib")
                source = "#!%s\nimport sys\nsys.path.append(%r)\nfrom %s import %s\nsys.exit(%s())\n" % (
                    sys.executable or "python3",
                    lib,
                    module,
                    function.split(".")[0],
                    function,
                )
                made.append(self._write("bin/" + name, source.encode("utf-8"), True))
        return made

    def take_effect(self):
        """Make this the present state."""
        link = os.path.join(self._prefix, "next")
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(os.path.basename(self.folder), link)
        os.rename(link, os.path.join(self._prefix, "current"))
        self._done = True


class _Lock:
    """Allows one installation at a time. At the end it removes a folder in which nothing was installed."""

    def __init__(self, prefix):
        self._prefix = prefix
        self._file = None

    def __enter__(self):
        os.makedirs(self._prefix, 0o700, exist_ok=True)
        self._file = io.open(os.path.join(self._prefix, "lock"), "w")
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX)
        except ImportError:
            pass  # a system without file locks

    def __exit__(self, kind, error, trace):
        self._file.close()
        inbox = os.path.join(self._prefix, "wheels")
        empty = os.path.isdir(self._prefix) and not os.path.lexists(os.path.join(self._prefix, "current"))
        if empty and not (os.path.isdir(inbox) and os.listdir(inbox)):
            remove_all(self._prefix)


def _recorded(info):
    with io.open(os.path.join(info, "RECORD"), encoding="utf-8") as file:
        return [row[0] for row in csv.reader(file) if row]


def _is_imported(path, lib):
    """Whether the file at this path of the folder ``lib`` is a module, or the file of a package, that is imported."""
    if not path.endswith(".py"):
        return False
    name = path[:-3].replace("/", ".")
    module = sys.modules.get(name[:-9] if name.endswith(".__init__") else name)
    return getattr(module, "__file__", None) == os.path.join(lib, path)


def _is_cache_of(path, left):
    """Whether the file at ``path`` is the compiled form of a file in ``left``."""
    folder, name = os.path.split(path)
    if os.path.basename(folder) != "__pycache__":
        return False
    return os.path.join(os.path.dirname(folder), name.split(".")[0] + ".py") in left


def _link(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _text(wheel, name):
    return wheel.read(name).decode("utf-8")


def _digest(kind, data):
    return base64.urlsafe_b64encode(hashlib.new(kind, data).digest()).rstrip(b"=").decode("ascii")


def _sha256(path):
    total = hashlib.sha256()
    with io.open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            total.update(piece)
    return total.hexdigest()
