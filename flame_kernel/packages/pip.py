"""Runs this machine's pip as a program, with the index, proxies and constraints that are configured for it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MAX_MESSAGE, FlameError, cap
from ..terminal import one_line, plain_text

# Options of `pip install` that are passed on, and whether they take a value.
PASSED = {
    "-r": True,
    "--requirement": True,
    "-c": True,
    "--constraint": True,
    "-i": True,
    "--index-url": True,
    "--extra-index-url": True,
    "--no-index": False,
    "-f": True,
    "--find-links": True,
    "--pre": False,
    "--proxy": True,
    "--trusted-host": True,
    "--cert": True,
    "--no-deps": False,
    "--no-cache-dir": False,
    "--prefer-binary": False,
    "--require-hashes": False,
    "--retries": True,
    "--timeout": True,
    "--client-cert": True,
}
# Options that mean nothing to pip here, and whether they take a value: it finds the newest suitable version, wheels
# only, and its own messages are not shown. ``upgrades`` and ``starts_over`` read some of them.
_NEEDLESS = {
    "-U": False, "--upgrade": False, "--force-reinstall": False, "-q": False, "--quiet": False, "-v": False,
    "--verbose": False, "--progress-bar": True, "--no-input": False, "--disable-pip-version-check": False,
    "--only-binary": True,
}  # fmt: skip
_EDITABLE = "an editable install needs the folder itself there; %flame hot FOLDER serves the modules of a folder here"
_PLACE = "packages go into a folder of their own there"
_SERVER = f"{_PLACE}; in the shell and by the magics a server is named first: pip -t SERVER install rich"
# Why an option of pip is refused.
_REFUSED = {
    "-e": _EDITABLE, "--editable": _EDITABLE, "--user": _PLACE, "-t": _SERVER, "--target": _SERVER, "--root": _PLACE,
    "--prefix": _PLACE, "--first": "write first=True",
}  # fmt: skip

# Runs pip, which evaluates markers such as ``python_version < "3.9"`` for its own Python, with those of the far side.
# If a pip has them elsewhere, `closure` still adds what the far side's markers require.
_PROGRAM = """
import json, runpy, sys
there, wheel = json.loads(sys.argv.pop(1))
sys.path[:] = wheel + [one for one in sys.path if one]
try:
    from pip._vendor.packaging import markers
    here = markers.default_environment
    markers.default_environment = lambda: dict(here(), **there)
except (ImportError, AttributeError):
    pass
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""

# A path, and extras behind it.
_PATH = re.compile(r"(.*?)(\[[^\]]*\])?", re.DOTALL)
# A line of an error as pip draws it.
_DRAWN = re.compile(r"^(?:× |╰─> )(.*)")


def _command(environment: Mapping[str, str]) -> list[str]:
    """The command that runs pip with the markers of ``environment``. Raises FlameError if there is no pip."""
    wheel: list[str] = []
    if importlib.util.find_spec("pip") is None:
        spec = importlib.util.find_spec("ensurepip")
        found = sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl")) if spec is not None and spec.origin else []
        program = shutil.which("pip3") or shutil.which("pip")
        if not found and program is None:
            raise FlameError(f"pip is not installed here; {sys.executable} -m ensurepip installs it")
        if not found and program is not None:
            return [program]
        wheel = [str(found[-1])]
    return [sys.executable, "-c", _PROGRAM, json.dumps([dict(environment), wheel])]


class Stop:
    """Ends an installation from any thread: what it waits for, or the next such thing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._end: Callable[[], object] | None = None

    def __call__(self) -> None:
        with self._lock:
            self._stopped = True
            end = self._end
        if end is not None:
            end()

    @contextlib.contextmanager
    def by(self, end: Callable[[], object]) -> Iterator[None]:
        """A context for something that ``end`` ends. Raises FlameError before it or after it if all is stopped."""
        with self._lock:
            self._check()
            self._end = end
        try:
            yield
            self._check()
        finally:
            with self._lock:
                self._end = None

    def _check(self) -> None:
        if self._stopped:
            raise FlameError("stopped; nothing was installed")


class Pip:
    """pip for one installation: with the options that the user has ``passed``, those for the far side's ``tags``, and
    the far side's ``environment`` for markers; ``what`` names that in words. It writes into ``folder``."""

    def __init__(
        self,
        passed: Sequence[str],
        tags: Sequence[str],
        environment: Mapping[str, str],
        what: str,
        folder: str,
        stop: Stop,
    ) -> None:
        self._passed = passed
        self._tags = tags
        self._environment = environment
        self._what = what
        self._folder = folder
        self._stop = stop

    def __repr__(self) -> str:
        return f"<Pip for {self._what}>"

    def resolve(self, requirements: Sequence[str], more: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What pip would install for the far side: its report's entries; ``more`` options. Raises FlameError with pip's
        own words."""
        report = os.path.join(self._folder, "report.json")
        words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", report]
        words += ["--target", os.path.join(self._folder, "target"), *self._tags, *self._passed, *more]
        self._run([*words, "--", *requirements], self._environment)
        with open(report, encoding="utf-8") as file:
            found: list[dict[str, Any]] = json.load(file)["install"]
        return found

    def built(self, requirements: Sequence[str]) -> list[str]:
        """The requirements, with a wheel for each that is a folder or source archive here. Raises FlameError."""
        found = []
        for number, word in enumerate(requirements):
            path, extras = _PATH.fullmatch(word).groups()  # type: ignore[union-attr]
            if _is_source(path):
                into = os.path.join(self._folder, "built", str(number))
                self._run(["wheel", "--quiet", "--no-deps", "--wheel-dir", into, *_kept(self._passed), "--", path], {})
                (made,) = os.listdir(into)
                word = os.path.join(into, made) + (extras or "")
            found.append(word)
        return found

    def download(self, entries: Sequence[dict[str, Any]]) -> str:
        """Fetch the wheels of these entries of a report; returns the folder that has them. Raises FlameError."""
        folder = os.path.join(self._folder, "fetched")
        os.makedirs(folder)
        pinned = []
        for one in entries:
            path = _local(str(one["download_info"].get("url")))
            if path is None:
                pinned.append(_pinned(one))
            else:
                shutil.copy(path, folder)
        if pinned:
            words = ["download", "--quiet", "--no-deps", "--dest", folder, *self._tags, *_kept(self._passed)]
            self._run([*words, "--", *pinned], {})
        return folder

    def _run(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        whole = [*_command(environment), *words]
        environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
        environ["PIP_REQUIRE_VIRTUALENV"] = "0"  # nothing is installed here
        environ["TMPDIR"] = environ["TEMP"] = environ["TMP"] = self._folder  # a pip that is ended leaves files
        process = subprocess.Popen(
            whole, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            with self._stop.by(process.terminate):
                _, err = process.communicate()
        except BaseException:  # raised again, whatever it is; pip is ended
            process.terminate()
            process.communicate()
            raise
        if process.returncode:
            raise FlameError(_why(err, self._what))


def _is_source(path: str) -> bool:
    if os.path.isdir(path):
        return os.sep in path or path in (".", "..")  # as for pip: else it is the name of a package
    return path.endswith((".tar.gz", ".tgz", ".zip")) and os.path.isfile(path)


def _local(url: str) -> str | None:
    """The path of a wheel on this machine, from its URL."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.request.url2pathname(parts.path) if parts.scheme == "file" and not parts.netloc else ""
    return path if path.endswith(".whl") and os.path.isfile(path) else None


def _kept(passed: Sequence[str]) -> list[str]:
    """The options for a file that is chosen already."""
    of_requirements = ("-r", "--requirement", "-c", "--constraint", "--require-hashes", "--no-deps")
    return [word for flag, value in _pairs(passed) if flag not in of_requirements for word in (flag, *value)]


def _pinned(entry: dict[str, Any]) -> str:
    """The requirement that has this entry of a report as its only answer: a version, or the file that was named."""
    name, version = entry["metadata"]["name"], entry["metadata"]["version"]
    return f"{name} @ {entry['download_info']['url']}" if entry.get("is_direct") else f"{name}=={version}"


def _pairs(passed: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Options with their values."""
    found: list[tuple[str, list[str]]] = []
    words = list(passed)
    while words:
        word = words.pop(0)
        found.append((word, [words.pop(0)] if PASSED.get(word) and words else []))
    return found


def _errors(err: str) -> str:
    """The errors in what pip has written, in one line."""
    lines = plain_text(err).splitlines()
    said: list[str] = []
    for line in lines:
        if line.startswith("ERROR"):
            said.append(line.removeprefix("ERROR: "))
        elif said and line.startswith("    "):  # it goes on
            said[-1] += " " + line.strip()
    if not said:  # as pip draws some of its errors
        said = [found[1] for found in map(_DRAWN.match, lines) if found]
    return "; ".join(dict.fromkeys(said)) or one_line(plain_text(err).strip()[-500:]) or "it failed"


def _why(err: str, what: str) -> str:
    """pip's error message, and what to do if it found no wheel."""
    text = _errors(err)
    if "No matching distribution" in text and "from versions: " in text and "from versions: none" not in text:
        text += f"; those are the versions that have a wheel for {what}"
    elif "No matching distribution" in text or "from versions: none" in text:
        text += f": there is no wheel of it for {what}; build one (pip wheel NAME, on such a machine) and give its file"
    elif what and "is not a supported wheel on this platform" in text:
        text = text.replace("this platform", what)
    elif "no such option: --report" in text:
        text = f"pip here is too old: {sys.executable} -m pip install --upgrade pip"
    return cap(f"pip: {text}", MAX_MESSAGE)


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Requirements, and options for pip. Raises FlameError for options that mean nothing here."""
    requirements: list[str] = []
    options: list[str] = []
    rest: list[object] = list(words)
    while rest:
        word = rest.pop(0)
        if not isinstance(word, str) or not word.strip() or not word.isprintable():
            raise FlameError(f"{word!r} is no requirement; write text such as 'rich' or 'rich>=13'")
        if not word.startswith("-"):
            requirements.append(_absolute(word))
            continue
        flag, value = _flag(word)
        if flag not in PASSED and flag not in _NEEDLESS:
            raise FlameError(_no_option(flag))
        given = [flag]
        if {**PASSED, **_NEEDLESS}[flag]:
            if value is None and not rest:
                raise FlameError(f"{flag} needs a value")
            given.append(_expanded(str(rest.pop(0)) if value is None else value))
        options += given if flag in PASSED else []
    return requirements, options


def upgrades(words: Sequence[str]) -> bool:
    """Whether the newest version is wanted, even where the host has one that will do."""
    return bool({"-U", "--upgrade"} & set(words))


def starts_over(words: Sequence[str]) -> bool:
    """Whether what was sent before is to be sent again."""
    return "--force-reinstall" in words


def _flag(word: str) -> tuple[str, str | None]:
    """An option, and its value if the word has it: ``--constraint=FILE``, ``-cFILE``."""
    if not word.startswith("--") and len(word) > 2 and PASSED.get(word[:2]):
        return word[:2], word[2:]
    if re.fullmatch(r"-(q+|v+)", word):
        return word[:2], None
    flag, equals, value = word.partition("=")
    return flag, value if equals else None


def _no_option(flag: str) -> str:
    if flag in _REFUSED:
        return f"{flag} cannot be used: {_REFUSED[flag]}"
    known = ", ".join(one for one in PASSED if one.startswith("--"))
    return f"{flag} means nothing for packages that are sent; there are {known}; --there is pip there"


def _expanded(value: str) -> str:
    return os.path.expanduser(value) if value.startswith("~") else value


def _absolute(word: str) -> str:
    """A requirement; ``~`` in a path is the home folder, as no shell may have said so."""
    path = _expanded(word)
    with contextlib.suppress(OSError):
        if path != word or (word.endswith(".whl") and os.path.isfile(path)):
            return os.path.abspath(path)
    return word
