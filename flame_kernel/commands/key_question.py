"""The key of a server that wants one and that nothing names: the user is asked for it, and told when it is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from ..connect.keys import Ask, Secret
from ..connect.target import Target
from ..errors import CannotConnect

T = TypeVar("T")

# How often a key is asked for before the server's answer is believed.
ASKS = 3


def opened(load: Callable[[Ask], Target], open_: Callable[[Target], T], ask: Ask) -> T:
    """``open_(load(ask))``; where the server wants a key that is not there, or not the one that was typed, with the one
    that the user types then. Raises what those raise. It waits for the user: not for an event loop's thread."""
    typed = False

    def noting(prompt: str, password: bool) -> str | None:
        nonlocal typed
        typed = typed or password
        return ask(prompt, password)

    target = load(noting)
    asked = 0
    while True:
        try:
            return open_(target)
        except CannotConnect as error:
            wrong = error.cause == "key_wrong" and typed
            if not (wrong or (error.cause == "key_missing_here" and target.key is None)) or asked == ASKS:
                raise
            reason = "Wrong key. " if wrong else ""
            key = ask(f"{reason}Key of the flame server at {error.location}: ", True)
            if not key:
                raise
            typed, asked = True, asked + 1
            target = dataclasses.replace(target, key=Secret(key.encode("utf-8", "surrogatepass")))
