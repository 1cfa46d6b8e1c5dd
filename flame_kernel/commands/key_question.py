"""Asks the user for a server's key, if nothing else gives one, and tells when it is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from ..connect.keys import Ask, Secret
from ..connect.target import Target
from ..errors import CannotConnect

T = TypeVar("T")

# How often we ask for a key before we give up.
ASKS = 3


def opened(load: Callable[[Ask], Target], open_: Callable[[Target], T], ask: Ask) -> T:
    """``open_(load(ask))``; if the server needs a key that we lack, or the typed key is wrong, the user is asked, and
    it is repeated with that key. Raises what those raise. It waits for the user, so do not call it on an event loop's
    thread."""
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
