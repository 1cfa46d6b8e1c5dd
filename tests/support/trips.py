"""What crossed a link: the ops of the requests."""

from __future__ import annotations

import re


def ops(messages: list[tuple[float, bytes]]) -> list[str]:
    """The names of the agent's ops in what a client said."""
    found = []
    for _, data in messages:
        op = re.search(rb'"op":"(\w+)"', data)
        found.append(op[1].decode() if op else "?")
    return found
