"""Shows equal outputs of many hosts once: the most frequent one first, the others as differences from it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# How many hosts a headline names before "and 41 more".
NAMED = 8
# The most differing lines for which a diff is made; beyond that it takes seconds.
COMPARED = 400

# Text that varies between hosts and runs: addresses of objects, times, numbers.
_PASSING = re.compile(r"0x[0-9a-fA-F]+|\d+(?:[.:,_-]\d+)*")
_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>0|[1-9]\d*)(?P<after>\D*)")
# The session's folder in the name of a cell's file, as warnings show it; it differs on each host.
_FOLDER = re.compile(r"(?<![^\s'\"])[^\s'\"]*[\\/](?:flame_\w{1,16}|ipykernel)_\d+[\\/](?=\d+\.py\b)")
# One of several sessions at a location, such as lab:9999/2.
_SESSION = re.compile(r"(?P<before>.*:.*/)(?P<number>[1-9]\d*)(?P<after>)")


@dataclass(frozen=True)
class Block:
    """One text, and the hosts with that output. ``alike``: their texts differ, but only in masked numbers."""

    hosts: tuple[str, ...]
    text: str
    alike: bool = False


def fold(texts: Mapping[str, str], mask: bool = False) -> list[Block]:
    """Group the texts of all hosts into blocks. Blocks with most hosts come first; ties keep their order.

    With ``mask``, texts that differ only in numbers, times and addresses count as equal; the block has the first one.
    """
    found: dict[str, list[str]] = {}
    for host, text in texts.items():
        found.setdefault(masked(text) if mask else text, []).append(host)
    blocks = []
    for hosts in found.values():
        first = texts[hosts[0]]
        blocks.append(Block(tuple(hosts), first, any(texts[host] != first for host in hosts)))
    return sorted(blocks, key=lambda block: -len(block.hosts))


def masked(text: str) -> str:
    """The text with each number, time and address as ``#``."""
    return _PASSING.sub("#", text)


def difference(text: str, base: str) -> str:
    """The difference from ``base`` to ``text``, as lines that begin with ``-`` or ``+``; or ``text`` itself if that is
    shorter."""
    old, new = base.splitlines(), text.splitlines()
    first = _alike(old, new)
    last = _alike(old[first:][::-1], new[first:][::-1])
    if len(old) + len(new) - 2 * (first + last) > COMPARED:
        return text
    # Only the lines that differ, and one before and behind: in long texts whose lines repeat, a diff takes minutes.
    start, end = max(0, first - 1), max(0, last - 1)
    old_part, new_part = old[start : len(old) - end], new[start : len(new) - end]
    lines = list(difflib.unified_diff(old_part, new_part, n=1, lineterm=""))[2:]  # without its two lines of file names
    if not lines or len(lines) >= len(new) + len(old):
        return text
    return "\n".join("  …" if line.startswith("@@") else line for line in lines[1:])


def _alike(lines: list[str], others: list[str]) -> int:
    """How many lines at the beginning of both are equal."""
    pairs = zip(lines, others, strict=False)
    return next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), min(len(lines), len(others)))


def settled(text: str) -> str:
    """The text as a terminal finally shows it: carriage returns overwrite the line, so only its last form is kept."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")) if "\r" in text else text


def _settled(text: str) -> str:
    """The same, and cells' files without the folders of their sessions, which differ though the text says the same."""
    return _FOLDER.sub("", settled(text)) if ".py" in text else settled(text)


def names(hosts: Sequence[str], most: int | None = NAMED) -> str:
    """Hosts in short form: ``web[1-47], db``. After ``most`` items the rest is only counted; None shows all."""
    runs = _runs(hosts)
    if most is None or len(runs) <= most:
        return ", ".join(run for run, _ in runs)
    shown = runs[:most]
    return f"{', '.join(run for run, _ in shown)} and {len(hosts) - sum(count for _, count in shown)} more"


def _runs(hosts: Iterable[str]) -> list[tuple[str, int]]:
    """Short forms with the number of hosts in each: three or more consecutive numbers become one range."""
    numbered: dict[tuple[str, str], list[int]] = {}
    order: list[tuple[str, str] | str] = []
    for host in hosts:
        match = (_SESSION if ":" in host else _NUMBERED).fullmatch(host)
        if match is None:
            order.append(host)
            continue
        kind = (match["before"], match["after"])
        if kind not in numbered:
            order.append(kind)
        numbered.setdefault(kind, []).append(int(match["number"]))
    found: list[tuple[str, int]] = []
    for one in order:
        if isinstance(one, str):
            found.append((one, 1))
            continue
        before, after = one
        spans = _spans(sorted(set(numbered[one])))
        if all(last - first < 2 for first, last in spans):
            found += [(f"{before}{number}{after}", 1) for number in numbered[one]]
            continue
        words = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
        found.append((f"{before}[{words}]{after}", len(numbered[one])))
    return found


def _spans(numbers: Sequence[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans


def headline(block: Block, total: int, first: bool, width: int = 100) -> str:
    """The line above a block: ``── 47 of 50 hosts: web[1-47] ──``."""
    count = len(block.hosts)
    if total == 1 or (count == total and first):
        words = block.hosts[0] if total == 1 else f"all {total} hosts: {names(block.hosts)}"
    elif count == 1:
        words = block.hosts[0]
    else:
        words = f"{count} of {total} hosts: {names(block.hosts)}"
    if block.alike:
        words += " (numbers differ)"
    return f"── {words} {'─' * max(2, min(width, 79) - len(words) - 4)}"


def told(texts: Mapping[str, str], *, diff: bool = True, mask: bool = False, total: int | None = None) -> str:
    """The texts of all hosts for people: a headline and the text of each block. Hosts without text are named last."""
    texts = {host: _settled(text) for host, text in texts.items()}
    spoken = {host: text.rstrip("\n") for host, text in texts.items() if text.strip()}
    silent = [host for host in texts if host not in spoken]
    total = len(texts) if total is None else total
    blocks, lines = fold(spoken, mask), []
    for number, block in enumerate(blocks):
        lines.append(headline(block, total, not number))
        base = blocks[0].text
        is_other = number and diff and len(blocks[0].hosts) > 1
        lines.append(difference(block.text, base) if is_other else block.text)
    if silent and spoken:
        lines.append(f"── no output: {names(silent)}")
    return "\n".join(lines)
