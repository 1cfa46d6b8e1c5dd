"""What a call hands over to be called back: functions and iterators that stay on this side.

The far side may use them while that call runs, and no longer; they run here on the thread that waits for the call.
Nothing else is called because a server says so: what was not handed over with this call has no number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

# Seconds for which items of an iterator are gathered, and how many at most.
GATHER = 0.02
MOST = 512


class CalledBack:
    """A function that is called back wherever it is handed over, also where its source could go; see `Remote.on`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"{type(function).__name__} cannot be called, so it cannot be called back")
        self.function = function

    def __repr__(self) -> str:
        return f"<called back: {name_of(self.function)}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Handed:
    """What one call has handed over. One use.

    ``described`` makes of an exception what is sent of it.
    """

    def __init__(self, described: Callable[[BaseException], dict[str, Any]]) -> None:
        self._described = described
        self._things: list[tuple[Any, str]] = []
        self._numbers: dict[int, int] = {}
        self._raised: list[BaseException] = []

    def __repr__(self) -> str:
        return f"<Handed {len(self._things)}>"

    def __len__(self) -> int:
        return len(self._things)

    def add(self, one: Any, kind: str) -> list[Any]:
        """What stands for a function or an iterator (``kind``) in what is sent."""
        number = self._numbers.setdefault(id(one), len(self._things))
        if number == len(self._things):
            self._things.append((one, kind))
        return ["callback", number, kind, name_of(one)]

    def raised(self, number: object) -> BaseException | None:
        """The exception that one of them raised here, by its number in an answer."""
        if type(number) is int and 0 <= number < len(self._raised):
            return self._raised[number]
        return None

    def use(self, content: Mapping[str, Any], arguments: Any) -> tuple[dict[str, Any], Any, BaseException | None]:
        """Do what the far side asks: the fields of the answer, its value, and what was raised. TypeError for what the
        far side may not ask."""
        number, what = content.get("callback"), content.get("what")
        if not isinstance(number, int) or not 0 <= number < len(self._things):
            raise TypeError("a callback that was not handed over")
        one, kind = self._things[number]
        if what != ("next" if kind == "iterator" else "call"):
            raise TypeError("a callback of another kind")
        args, kwargs = arguments
        if type(args) is not tuple or type(kwargs) is not dict or not all(isinstance(name, str) for name in kwargs):
            raise TypeError("arguments")
        try:
            return {"status": "ok"}, self._next(one, args) if kind == "iterator" else one(*args, **kwargs), None
        except BaseException as error:  # whatever it raises is raised there, and comes back as it is
            return self.failed(error)

    def failed(self, error: BaseException) -> tuple[dict[str, Any], Any, BaseException]:
        """The answer where something was raised here."""
        self._raised.append(error)
        return {"status": "error", "raised": len(self._raised) - 1}, self._described(error), error

    def _next(self, iterator: Any, args: tuple[Any, ...]) -> tuple[list[Any], Any, bool]:
        """The next items, as many as are wanted unless that takes long; what ends them (None, True or an exception);
        and whether they came quickly."""
        (wanted,) = args
        until = time.monotonic() + GATHER
        items: list[Any] = []
        while len(items) < min(int(wanted), MOST) and time.monotonic() <= until:
            try:
                items.append(next(iterator))
            except StopIteration:
                return items, True, True
            except Exception as error:  # it is raised there behind the items before it
                if not items:
                    raise
                return items, self._described(error), True
        return items, None, time.monotonic() <= until


def name_of(one: Any) -> str:
    """What something is called, for people."""
    name = getattr(one, "__qualname__", None) or getattr(one, "__name__", None) or type(one).__qualname__
    return name if isinstance(name, str) else type(one).__qualname__


def is_iterator(one: Any) -> bool:
    """Whether its items can be asked for one after the other."""
    kind = type(one)
    return hasattr(kind, "__next__") and hasattr(kind, "__iter__")
