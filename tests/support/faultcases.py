"""What tests of faults have in common: cells whose output tells exactly what was lost, doubled or mixed up."""

from __future__ import annotations

import os
from typing import Any

from kernels import Kernel, Message, Run

# Everything at the size of its figure: outages of a minute, gigabytes, sixteen kernels. Takes half an hour.
FULL = bool(os.environ.get("FLAME_TEST_FULL"))


def numbered(count: int, pause: float = 0.0) -> str:
    """A cell that prints ``count`` numbered lines, ``pause`` seconds after each, counts its runs, and has a result."""
    wait = f"; time.sleep({pause})" if pause else ""
    return (
        "import time\n"
        "runs = globals().get('runs', 0) + 1\n"
        f"for i in range({count}):\n"
        f"    print('line %06d of {count:06d}' % i){wait}\n"
        "runs"
    )


def lines(count: int) -> str:
    """What it prints."""
    return "".join(f"line {i:06d} of {count:06d}\n" for i in range(count))


def is_exact(run: Run, count: int, runs: int = 1) -> None:
    """The run is ok; all lines are there, once, in order, in its own output, before its result; it ran once."""
    assert run.reply is not None
    assert run.reply["status"] == "ok", str(run)[:3000]
    text, expected = run.stdout, lines(count)
    if text != expected:
        at = next((i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), 0)
        raise AssertionError(
            f"{len(text)} characters for {len(expected)}; from {at} on {text[at - 50 : at + 100]!r} "
            f"instead of {expected[at - 50 : at + 100]!r}"
        )
    assert run.result == str(runs), run.result
    kinds = [m.type for m in run.output if not is_link_line(m)]
    assert set(kinds[:-1]) == {"stream"}
    assert kinds[-1] == "execute_result"


def is_link_line(message: Message) -> bool:
    """Whether it is the kernel's word about its link, or what takes that back."""
    if message.type not in ("display_data", "update_display_data"):
        return False
    text = message.content["data"].get("text/plain", "")
    return text == "" or text.startswith("link to ") or " not responding since " in text


def link_lines(run: Run) -> list[str]:
    """What the notebook showed about the link, one after the other; the last is empty once it was taken back."""
    return [m.content["data"]["text/plain"] for m in run.messages if is_link_line(m)]


def says_link_is_lost(kernel: Kernel, run: Run, seconds: float) -> str:
    """The line that says so, within that time."""

    def line() -> Any:
        said = link_lines(run)
        return said[-1] if said else None

    return str(kernel.wait_for(line, "the notebook's word that the link is lost", seconds))


def link_is_back(kernel: Kernel, run: Run, seconds: float) -> None:
    """The line is taken back within that time."""
    kernel.wait_for(lambda: link_lines(run)[-1:] == [""], "the notebook's word on the link is taken back", seconds)


def percentile(seconds: list[float], share: float) -> float:
    """The time within which ``share`` (0 to 1) of all were done."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))]
