"""Weather: a thread that spoils the link, and stops and continues processes, as chance and a seed will have it."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator

from flakylink import FlakyLink

OPS = (
    b'"op":"submit"',
    b'"op":"do"',
    b'"op":"read"',
    b'"op":"poll"',
    b'"op":"interrupt"',
    b'"op":"answer"',
    b'"op":"hello"',
)


class Weather:
    """One fault at a time, some seconds long, then a pause.

    server     pid of the server
    kernel     called for the pid of the kernel, which may be another one by now; None while there is none
    tell       called with each fault in words
    """

    def __init__(
        self,
        link: FlakyLink,
        seed: int,
        server: int,
        kernel: Callable[[], int | None],
        tell: Callable[[str], None],
    ) -> None:
        self.faults: collections.Counter[str] = collections.Counter()
        self._link = link
        self._random = random.Random(seed)
        self._server = server
        self._kernel = kernel
        self._tell = tell
        self._over = threading.Event()
        self._lock = threading.Lock()  # held while there is a fault
        self._thread = threading.Thread(target=self._run, name="weather")
        self._kinds = (
            self._cut,
            self._cut,
            self._cuts,
            self._cuts,
            self._swallow,
            self._swallow,
            self._outage,
            self._silence,
            self._long_way,
            self._drip,
            self._freeze_server,
            self._freeze_kernel,
        )

    def start(self) -> None:
        """Let it begin."""
        self._thread.start()

    def stop(self) -> None:
        """Fair from now on."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextlib.contextmanager
    def calm(self) -> Iterator[None]:
        """No fault inside of this."""
        with self._lock:
            yield

    def _run(self) -> None:
        while not self._over.is_set():
            with self._lock:
                if self._over.is_set():
                    return
                kind = self._random.choice(self._kinds)
                self.faults[kind.__name__.lstrip("_")] += 1
                kind()
            self._over.wait(self._random.uniform(0.05, 1.0))

    def _last(self, least: float, most: float) -> float:
        seconds = self._random.uniform(least, most)
        self._over.wait(seconds)
        return seconds

    # -- faults: each begins, lasts, and is over when it returns -------------------------------------------------------

    def _cut(self) -> None:
        how = self._random.choice(("rst", "fin"))
        asking = self._random.choice((b"", *OPS))
        self._tell(f"cut ({how}) of {asking.decode() or 'all'}")
        self._link.cut(how, asking)  # type: ignore[arg-type]

    def _cuts(self) -> None:
        size = self._random.choice((4_000, 16_000, 64_000, 256_000))
        how = self._random.choice(("rst", "fin"))
        self._tell(f"cuts ({how}) every {size} bytes")
        self._link.cut_every(size, how)  # type: ignore[arg-type]
        self._last(0.5, 4)
        self._link.cut_every(None)

    def _swallow(self) -> None:
        asking, times = self._random.choice(OPS), self._random.randint(1, 4)
        self._tell(f"swallow {times} answers to {asking.decode()}")
        self._link.swallow(asking, times)
        self._last(0.5, 3)
        self._link.swallow(b"\0 nobody asks so", 1)

    def _outage(self) -> None:
        how = self._random.choice(("refuse", "rst", "fin"))
        self._tell(f"outage ({how})")
        self._link.down(how)  # type: ignore[arg-type]
        self._last(0.05, 3)
        self._link.up()

    def _silence(self) -> None:
        self._tell("silence")
        self._link.silent()
        self._last(0.1, 5)
        if self._random.random() < 0.5:
            self._link.cut()
        self._link.up()

    def _long_way(self) -> None:
        self._link.delay = self._random.choice((0.01, 0.05, 0.2))
        self._tell(f"{self._link.delay * 1000:g} ms each way")
        self._last(0.5, 3)
        self._link.delay = 0.0

    def _drip(self) -> None:
        self._link.rate = self._random.choice((2_000.0, 20_000.0, 200_000.0))
        self._tell(f"{self._link.rate:g} bytes a second")
        self._last(0.5, 3)
        self._link.rate = None

    def _freeze_server(self) -> None:
        self._freeze(self._server, "the server")

    def _freeze_kernel(self) -> None:
        pid = self._kernel()
        if pid is not None:
            self._freeze(pid, "the kernel")

    def _freeze(self, pid: int, name: str) -> None:
        self._tell(f"{name} is stopped")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                self._last(0.1, 4)
            finally:
                os.kill(pid, signal.SIGCONT)
