"""States of the packages that the client sends: a folder each, unpacked from wheels; the next one replaces the present
one as a whole or not at all. packages.py tells where they are."""

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import zipfile

# A command of a package; its folder is beside that of the packages.
_SCRIPT = """#!%s
import os, sys
sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib"))
from %s import %s
sys.exit(%s())
"""


class Refused(Exception):
    """Something cannot be installed or removed; the text is one sentence."""


def current(prefix):
    """The folder of the state in use. ``current`` is a link to it, or where links cannot be made a file with its
    name."""
    path = os.path.join(prefix, "current")
    if os.path.isfile(path):
        with io.open(path, encoding="ascii") as file:
            return os.path.join(prefix, os.path.basename(file.read(20).strip()) or "none")
    return path


def _remove_all(prefix):
    """Remove our folder, and the empty folders above it that may have been made for it."""
    shutil.rmtree(prefix)
    above = os.path.dirname(prefix)
    try:
        for _ in range(3):  # remote-flame, and what may have been made for it: share, .local
            os.rmdir(above)
            above = os.path.dirname(above)
    except OSError:
        pass  # not empty: packages of another Python, or files of others


class State:
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
        old = current(self._prefix)
        if not os.path.isdir(old):
            return []
        lib, left, imported = os.path.join(old, "lib"), set(), []
        for one in os.listdir(lib):
            name = plain(metadata(os.path.join(lib, one))[0]) if one.endswith(".dist-info") else ""
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
                    self.pth.append(plain(info.split("-")[0]))
            if info + "/entry_points.txt" in names:
                made += self._scripts(_text(wheel, info + "/entry_points.txt"))
        self._write("lib/%s/INSTALLER" % info, b"remote-flame\n", False)
        made += ["lib/%s/INSTALLER" % info, "lib/%s/RECORD" % info]
        rows = "".join("%s,,\n" % os.path.relpath(one, "lib").replace(os.sep, "/") for one in made)
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
                python = sys.executable or "python3"
                source = _SCRIPT % (python, module, function.split(".")[0], function)
                made.append(self._write("bin/" + name, source.encode("utf-8"), True))
                if os.name == "nt":
                    caller = '@"%s" "%%~dp0%s" %%*\r\n' % (python, name)
                    made.append(self._write("bin/%s.cmd" % name, caller.encode("utf-8"), True))
        return made

    def take_effect(self):
        """Make this the present state."""
        link = os.path.join(self._prefix, "next")
        if os.path.lexists(link):
            os.unlink(link)
        try:
            if os.name == "nt":
                raise OSError("links are allowed to few users")
            os.symlink(os.path.basename(self.folder), link)
        except OSError:  # nor does every file system have them
            with io.open(link, "w", encoding="ascii") as file:
                file.write(os.path.basename(self.folder))
        os.replace(link, os.path.join(self._prefix, "current"))
        self._done = True


class Lock:
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
            _remove_all(self._prefix)


def _recorded(info):
    with io.open(os.path.join(info, "RECORD"), encoding="utf-8") as file:
        return [row[0] for row in csv.reader(file) if row]


def _is_imported(path, lib):
    """Whether the file at this path of the folder ``lib`` is a module, or the file of a package, that is imported."""
    if not path.endswith(".py"):
        return False
    name = path[:-3].replace("/", ".")
    module = sys.modules.get(name[:-9] if name.endswith(".__init__") else name)
    return getattr(module, "__file__", None) == os.path.normpath(os.path.join(lib, path))


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


def metadata(path):
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


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()
