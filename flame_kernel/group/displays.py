"""Combines the displays that a cell has made on many hosts: equal ones once, different figures side by side."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..security.pictures import READERS
from . import folding
from .output import HostOutput

Bundle = tuple[dict[str, Any], dict[str, Any]]
# Characters of base64.
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\n")


@dataclass(frozen=True)
class Shown:
    """One display: the line above it (may be empty), and the MIME bundle with its metadata."""

    line: str
    data: dict[str, Any]
    metadata: dict[str, Any]


def displays(outputs: Mapping[str, HostOutput], total: int) -> list[Shown]:
    """The displays to show: the first one of all hosts, then the second, and so on. Plain text does not count."""
    found: list[Shown] = []
    rich = {host: [one for one in output.bundles if _is_rich(one[0])] for host, output in outputs.items()}
    for number in range(max(map(len, rich.values()), default=0)):
        found += _side_by_side({host: one[number] for host, one in rich.items() if number < len(one)}, total)
    return found


def _side_by_side(bundles: Mapping[str, Bundle], total: int) -> list[Shown]:
    """Combine the same display of several hosts: equal ones once, different pictures in a grid, others in a column."""
    kinds: dict[str, list[str]] = {}
    for host, (data, _) in bundles.items():
        rich = {mime: content for mime, content in data.items() if mime != "text/plain"}
        kinds.setdefault(json.dumps(rich, sort_keys=True, default=str), []).append(host)
    groups = sorted(kinds.values(), key=lambda hosts: -len(hosts))
    if len(groups) > 1 and all(_picture(bundles[hosts[0]][0]) is not None for hosts in groups):
        return [_grid([(hosts, bundles[hosts[0]][0]) for hosts in groups], total)]
    shown = []
    for number, hosts in enumerate(groups):
        line = folding.headline(folding.Block(tuple(hosts), ""), total, not number)
        shown.append(Shown(line, *bundles[hosts[0]]))
    return shown


def _grid(pictures: Sequence[tuple[Sequence[str], Mapping[str, Any]]], total: int) -> Shown:
    """Pictures side by side, each above its hosts. Only base64 from the servers is put into the HTML."""
    cells, texts = [], []
    for hosts, data in pictures:
        mime, content = _picture(data) or ("", "")
        words = folding.names(hosts)
        texts.append(words)
        cells.append(
            "<figure style='margin: 0; flex: 1 1 260px; max-width: 480px; text-align: center'>"
            f"<img src='data:{mime};base64,{content}' style='max-width: 100%; height: auto'>"
            f"<figcaption>{html.escape(words)}</figcaption></figure>"
        )
    text = f"<figures of {total} hosts: {'; '.join(texts)}>"
    made = f"<div style='display: flex; flex-wrap: wrap; gap: 12px'>{''.join(cells)}</div>"
    return Shown("", {"text/html": made, "text/plain": text}, {})


def _picture(data: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first picture in a MIME bundle, ``(MIME type, base64)``; None if there is none."""
    for mime in READERS:
        content = data.get(mime)
        if isinstance(content, str) and set(content) <= _BASE64:
            return mime, content
    return None


def _is_rich(data: Mapping[str, Any]) -> bool:
    return bool(set(data) - {"text/plain"})
