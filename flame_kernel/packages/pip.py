"""Runs this machine's pip as a program, with the index, proxies and constraints that are configured for it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import FlameError
from ..terminal import plain_text

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
}


def command() -> list[str]:
    """The command that runs pip. Raises FlameError if there is no pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin:
        wheels = sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl"))
        if wheels:
            return [sys.executable, str(wheels[-1] / "pip")]
    program = shutil.which("pip3") or shutil.which("pip")
    if program is None:
        raise FlameError(f"pip is not installed here; {sys.executable} -m ensurepip installs it")
    return [program]


def resolve(requirements: Sequence[str], passed: Sequence[str], tags: Sequence[str], what: str) -> list[dict[str, Any]]:
    """What pip would install for the far side: its report's entries. Raises FlameError with pip's own words."""
    with tempfile.TemporaryDirectory(prefix="flame-pip-") as folder:
        report = os.path.join(folder, "report.json")
        words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", report]
        words += ["--target", os.path.join(folder, "target"), *tags, *passed, "--", *requirements]
        _run(words, what)
        with open(report, encoding="utf-8") as file:
            found: list[dict[str, Any]] = json.load(file)["install"]
    return found


def download(entries: Sequence[dict[str, Any]], passed: Sequence[str], tags: Sequence[str], folder: str) -> None:
    """Fetch the wheels of these entries of a report into ``folder``. Raises FlameError."""
    pinned = [_pinned(one) for one in entries]
    kept = [word for word, value in _pairs(passed) if word not in ("-r", "--requirement", "-c", "--constraint")
            for word in (word, *value)]  # fmt: skip
    _run(["download", "--quiet", "--no-deps", "--dest", folder, *tags, *kept, "--", *pinned], "")


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


def _run(words: Sequence[str], what: str) -> None:
    whole = [*command(), *words]
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    process = subprocess.Popen(
        whole, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        _, err = process.communicate()
    except BaseException:  # raised again, whatever it is; pip is ended
        process.terminate()
        process.communicate()
        raise
    if process.returncode:
        raise FlameError(_why(err, what))


def _why(err: str, what: str) -> str:
    """pip's error message, and what to do if it found no wheel."""
    said = [line.removeprefix("ERROR: ") for line in plain_text(err).splitlines() if line.startswith("ERROR")]
    text = "; ".join(dict.fromkeys(said)) or plain_text(err).strip()[-500:] or "it failed"
    if "No matching distribution" in text or "from versions: none" in text:
        text += f": there is no wheel of it for {what}; build one (pip wheel NAME, on such a machine) and give its file"
    elif "no such option: --report" in text:
        text = f"pip here is too old: {' '.join(command())} install --upgrade pip"
    return f"pip: {text}"


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Requirements, and options for pip. Raises FlameError for options that mean nothing here."""
    requirements: list[str] = []
    options: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            requirements.append(_absolute(word))
            continue
        flag, equals, value = word.partition("=")
        if flag not in PASSED:
            known = ", ".join(one for one in PASSED if one.startswith("--"))
            raise FlameError(
                f"{flag} means nothing for packages that are sent; there are {known}; --there is pip there"
            )
        options.append(flag)
        if PASSED[flag]:
            if not equals and not rest:
                raise FlameError(f"{flag} needs a value")
            options.append(value if equals else rest.pop(0))
    return requirements, options


def _absolute(word: str) -> str:
    """A requirement; the path of an existing file is made absolute, because pip runs in another folder."""
    with contextlib.suppress(OSError):
        if word.endswith(".whl") and os.path.isfile(os.path.expanduser(word)):
            return os.path.abspath(os.path.expanduser(word))
    return word


Say = Callable[[str], None]
