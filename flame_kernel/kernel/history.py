"""History of the cells, kept here, on the client: searchable, and the far side's disk is left alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from IPython.core.history import HistoryManager
from IPython.core.interactiveshell import InteractiveShellABC
from traitlets.config import Config

# Seconds from the first cell that is not in the database until it is written, and all that have come since with it.
WRITE_AFTER = 1.0
# How many cells IPython's manager keeps before it writes by itself: more than anybody runs.
_NEVER = 1 << 30


class _Shell:
    """As much of a shell as a HistoryManager asks for."""

    def __init__(self, profile_dir: Any) -> None:
        self.profile_dir = profile_dir
        self.user_ns: dict[str, Any] = {}

    def push(self, variables: dict[str, Any], interactive: bool = True) -> None:
        """``_i`` and its like live on the far side."""


InteractiveShellABC.register(_Shell)


class History:
    """IPython's own history database, fed with what runs on the far side. To be made where an event loop will run.

    A transaction costs as much as a third of a short cell, so cells do not wait for one: IPython's thread writes once a
    second, and whatever asks for the history, and the end, write what is not there yet.
    """

    def __init__(self, profile_dir: Any, config: Config) -> None:
        self._line = 0
        self._lines: dict[int, int] = {}  # execution count -> line: counts repeat, lines of the database must not
        self._manager: Any = HistoryManager(shell=_Shell(profile_dir), config=config)  # type: ignore[arg-type]
        self._manager.db_cache_size = _NEVER
        self._loop: asyncio.AbstractEventLoop | None = None  # known with the first cell
        self._is_due = False

    def storing(self, count: int, code: str) -> Callable[[], None]:
        """Cell ``count`` is being sent: returns a function that stores it, once, however often it is called."""
        self._line += 1
        self._lines[count] = line = self._line
        stored = False

        def store() -> None:
            nonlocal stored
            if not stored:
                stored = True
                self._manager.store_inputs(line, _storable(code))
                self._loop = asyncio.get_running_loop()
                self._write_soon()

        return store

    def store_output(self, count: int, text: str) -> None:
        """The text/plain of the value of cell ``count``."""
        line = self._lines.get(count)
        if line is not None:
            self._manager.output_hist_reprs[line] = _storable(text)
            self._manager.store_output(line)
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the end writes it
                    self._loop.call_soon_threadsafe(self._write_soon)

    def _write_soon(self) -> None:
        if not self._is_due and self._loop is not None:
            self._is_due = True
            self._loop.call_later(WRITE_AFTER, self._write)

    def _write(self) -> None:
        """Have IPython's thread write."""
        self._is_due = False
        if self._manager.save_flag is not None:
            self._manager.save_flag.set()

    def reply(
        self,
        hist_access_type: str,
        output: bool,
        raw: bool,
        session: int = 0,
        start: int = 0,
        stop: int | None = None,
        n: int | None = None,
        pattern: str | None = None,
        unique: bool = False,
    ) -> dict[str, Any]:
        """The content of a history_reply
        (https://jupyter-client.readthedocs.io/en/stable/messaging.html#history)."""
        manager = self._manager
        manager.writeout_cache()
        if hist_access_type == "tail":
            found = manager.get_tail(n, raw=raw, output=output, include_latest=True)
        elif hist_access_type == "range":
            found = manager.get_range(session, start, stop, raw=raw, output=output)
            # The present session is asked for by 0, and has a number all the same.
            found = [(number or manager.session_number, *rest) for number, *rest in found]
        elif hist_access_type == "search":
            found = manager.search(pattern, raw=raw, output=output, n=n, unique=unique)
        else:
            found = []
        return {"status": "ok", "history": list(found)}

    def close(self) -> None:
        """Write what is cached, and end the database session."""
        self._manager.end_session()
        if hasattr(self._manager, "close"):
            self._manager.close()


def _storable(text: str) -> str:
    """Text without lone surrogates: the database takes none, and one would keep all after it out as well."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
