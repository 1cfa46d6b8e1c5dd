"""Saves profiles: as speedscope's JSON, which it also reads again to compare with, or as the notebook's HTML page.

The format: https://www.speedscope.app/file-format-schema.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import FlameError
from .profile import Call, Profile

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
# The most bytes of a file that is read.
MOST = 100 << 20


def speedscope(profile: Profile, name: str) -> dict[str, Any]:
    """The profile in speedscope's format: one sampled profile for each thread, in seconds."""
    frames: dict[Call, int] = {}
    threads: dict[str, tuple[list[list[int]], list[float]]] = {}
    for (thread, calls), seconds in profile.stacks.items():
        samples, weights = threads.setdefault(thread, ([], []))
        samples.append([frames.setdefault(call, len(frames)) for call in calls])
        weights.append(seconds)
    made = [
        {
            "type": "sampled",
            "name": thread,
            "unit": "seconds",
            "startValue": 0,
            "endValue": sum(weights),
            "samples": samples,
            "weights": weights,
        }
        for thread, (samples, weights) in threads.items()
    ]
    listed = [{"name": one.function, "file": one.file, "line": one.line} for one in frames]
    return {
        "$schema": _SCHEMA,
        "exporter": "Remote Flame",
        "name": name,
        "shared": {"frames": listed},
        "profiles": made,
        "flame": {name: getattr(profile, name) for name in ("mode", "scope", "seconds", "samples", "cost", "hosts")},
    }


def save(profile: Profile, path: Path, name: str = "") -> None:
    """Write a profile: as a page if the file ends in ``.html``, else as speedscope's JSON. Raises FlameError."""
    if path.suffix.lower() in (".html", ".htm"):
        page = profile.page()
        text = f'<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">{page}'
    else:
        text = json.dumps(speedscope(profile, name or profile.title))
    try:
        path.write_text(text, "utf-8")
    except OSError as e:
        raise FlameError(f"cannot write {path}: {e.strerror}; the profile was taken all the same") from None


def load(path: Path) -> Profile:
    """Read a profile that ``save`` wrote, or sampled speedscope JSON of another program. Raises FlameError."""
    try:
        if path.stat().st_size > MOST:
            raise FlameError(f"{path} has more than {MOST >> 20} MiB; a saved profile is smaller")
        content = json.loads(path.read_text("utf-8"))
        return _loaded(content)
    except OSError as e:
        raise FlameError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise FlameError(f"{path} is not a profile; save one with -o NAME.json") from None


def _loaded(content: Any) -> Profile:
    calls = [
        Call(str(one["name"]), str(one.get("file") or ""), int(one.get("line") or 0))
        for one in content["shared"]["frames"]
    ]
    stacks: dict[Any, float] = {}
    for one in content["profiles"]:
        for numbers, seconds in zip(one["samples"], one["weights"], strict=True):
            stack = str(one["name"]), tuple(calls[number] for number in numbers)
            if numbers:
                stacks[stack] = stacks.get(stack, 0.0) + max(0.0, float(seconds))
    facts = content.get("flame") or {}
    return Profile(
        stacks,
        {},
        mode=str(facts.get("mode", "wall")),
        scope=str(facts.get("scope", "all")),
        seconds=float(facts.get("seconds", 0.0)),
        samples=int(facts.get("samples", 0)),
        cost=float(facts.get("cost", 0.0)),
        hosts=int(facts.get("hosts", 1)),
    )
