"""Which wheels a far side can use, as options of ``pip``: its platform, Python and ABI, from the facts that it
tells."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from ..errors import FlameError

_WORD = re.compile(r"[A-Za-z0-9_.]{1,60}")
# The oldest glibc that wheels are made for, by machine; and the tags from before PEP 600.
_OLDEST = {"x86_64": 5, "i686": 5}
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


def options(facts: dict[str, Any]) -> list[str]:
    """pip's options for this far side. Raises FlameError if no wheels are made for it."""
    major, minor = facts["version"][:2]
    found = ["--only-binary=:all:", "--python-version", f"{major}.{minor}"]
    if facts["implementation"] == "cpython":
        found += ["--implementation", "cp"]
        if facts["free_threaded"]:
            found += ["--abi", f"cp{major}{minor}t", "--abi", "none"]
    elif facts["implementation"] == "pypy":
        found += ["--implementation", "pp", "--abi", _pypy(facts["soabi"]), "--abi", "none"]
    else:
        raise FlameError(f"there are no wheels for {facts['implementation']}; copy pure Python with %flame put")
    for one in platforms(facts):
        found += ["--platform", one]
    return found


def _pypy(soabi: str) -> str:
    """From ``pypy311-pp73-x86_64-linux-gnu``: ``pypy311_pp73``."""
    return "_".join(soabi.split("-")[:2])


def platforms(facts: dict[str, Any]) -> list[str]:
    """The platform tags, the best one first; pip adds ``any`` itself."""
    name = facts["platform"].replace("-", "_").replace(".", "_").replace(" ", "_").lower()
    if name.startswith("linux_"):
        machine = name.removeprefix("linux_")
        if facts["bits"] == 32:
            machine = {"x86_64": "i686", "aarch64": "armv7l"}.get(machine, machine)
        return [*_linux(machine, *facts["libc"]), f"linux_{machine}"]
    if name.startswith("macosx_") and facts["mac"]:
        return _mac(facts["mac"], name.split("_", 3)[-1])
    return [name]


def _linux(machine: str, libc: str, version: str) -> list[str]:
    numbers = [int(one) for one in re.findall(r"\d+", version)[:2]]
    minor = numbers[1] if len(numbers) == 2 else 17
    if libc == "musl":
        return [f"musllinux_1_{n}_{machine}" for n in range(minor, 0, -1)]
    if libc != "glibc":
        return []
    found = []
    for n in range(min(minor, 99), _OLDEST.get(machine, 17) - 1, -1):
        found.append(f"manylinux_2_{n}_{machine}")
        if n in _LEGACY:
            found.append(f"{_LEGACY[n]}_{machine}")
    return found


def _mac(version: str, machine: str) -> list[str]:
    major, minor = (int(one) for one in [*version.split("."), "0"][:2])
    kinds = [machine, "universal2"]
    found = [f"macosx_{n}_0_{kind}" for n in range(major, 10, -1) for kind in kinds]
    if machine == "x86_64" or major == 10:
        last = minor if major == 10 else 16
        found += [f"macosx_10_{n}_{kind}" for n in range(last, 8, -1) for kind in (*kinds, "intel")]
    return found


def checked(facts: dict[str, Any]) -> dict[str, Any]:
    """Check the facts of a far side, because they become words of pip's command line; raises FlameError."""
    if not all(is_sound(facts.get(name)) for name, is_sound in _FACTS.items()):
        raise FlameError("the far side did not say what it is; nothing was sent")
    return facts


def _is_word(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_. -]{0,80}", value) is not None


def _is_libc(value: object) -> bool:
    return _are(value, str, 2) and all(not one or _WORD.fullmatch(one) for one in cast(list[str], value))


def _are(value: object, kind: type, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(one) is kind for one in value)


def _are_requirements(value: object) -> bool:
    """``{name: [requirement, …], …}``"""
    return isinstance(value, dict) and all(
        isinstance(texts, list) and all(isinstance(one, str) for one in texts) for texts in value.values()
    )


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for pair in value.items() for one in pair)


# Each fact that is checked, and by what.
_FACTS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("implementation", "abiflags", "soabi", "platform", "mac"), _is_word),
    "prefix": lambda value: isinstance(value, str),
    "version": lambda value: _are(value, int, 3),
    "libc": _is_libc,
    "free": lambda value: isinstance(value, int),
    "bits": lambda value: value in (32, 64),
    **dict.fromkeys(("environment", "host", "ours"), _is_table),
    **dict.fromkeys(("exists", "begun", "first"), lambda value: type(value) is bool),
    "requires": _are_requirements,
}
