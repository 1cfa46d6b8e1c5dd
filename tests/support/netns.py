"""A server on another host, as the network sees it: in a network namespace behind a router that can go silent.

What a proxy cannot show, this can: packets that vanish while both ends keep their connections, and nobody is told.
It needs root (network namespaces) and the program ``ip``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

from needs import missing

_numbers = itertools.count()


class Net:
    """``address`` of the far host; what is started ``within`` runs there.

    here (198.18.n.1) -- router -- far (198.18.n.6)

    ``net()`` makes it, and takes it down again.
    """

    def __init__(self, number: int) -> None:
        self._far, self._router, self._here = (f"fl{os.getpid()}-{number}{end}" for end in "frh")
        self.here, one, two, self.address = (f"198.18.{(os.getpid() + number) % 256}.{last}" for last in (1, 2, 5, 6))
        self.within = ("ip", "netns", "exec", self._far)
        self._lines = (
            f"ip netns add {self._far}",
            f"ip netns add {self._router}",
            f"ip link add {self._here} type veth peer name here0 netns {self._router}",
            f"ip -n {self._router} link add far0 type veth peer name up0 netns {self._far}",
            f"ip addr add {self.here}/30 dev {self._here}",
            f"ip -n {self._router} addr add {one}/30 dev here0",
            f"ip -n {self._router} addr add {two}/30 dev far0",
            f"ip -n {self._far} addr add {self.address}/30 dev up0",
            f"ip link set {self._here} up",
            f"ip -n {self._router} link set here0 up",
            f"ip -n {self._router} link set far0 up",
            f"ip -n {self._far} link set up0 up",
            f"ip -n {self._far} link set lo up",
            f"ip route add {self.address}/32 via {one}",
            f"ip -n {self._far} route add default via {two}",
        )

    def make(self) -> None:
        """Put it up; CalledProcessError where the machine does not allow it."""
        for line in self._lines:
            _run(line)
        self.back()

    def silent(self) -> None:
        """From now on every packet between here and there is dropped without a word."""
        self._forward(0)

    def back(self) -> None:
        """Packets pass."""
        self._forward(1)

    def _forward(self, on: int) -> None:
        _run(f"ip netns exec {self._router} sysctl -q -w net.ipv4.ip_forward={on}")

    def remove(self) -> None:
        """Take it down; what runs there must have ended."""
        for line in (f"ip link del {self._here}", f"ip netns del {self._far}", f"ip netns del {self._router}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                _run(line)


def _run(line: str) -> None:
    subprocess.run(line.split(), check=True, capture_output=True, text=True)


@contextlib.contextmanager
def net() -> Iterator[Net]:
    """A network with one far host; skips where the machine does not allow it, and fails in CI."""
    number = next(_numbers)
    if os.geteuid() != 0 or shutil.which("ip") is None:
        missing("root and the program ip, for network namespaces")
    made = Net(number)
    try:
        made.make()
    except subprocess.CalledProcessError as e:
        made.remove()
        missing(f"network namespaces ({' '.join(e.cmd)}: {e.stderr.strip()})")
    try:
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def alone(count: int) -> Iterator[list[tuple[str, ...]]]:
    """Hosts with nothing but a loopback interface: what is started ``within`` each has no network; a unix socket leads
    there all the same. Skips where the machine does not allow it, and fails in CI."""
    names = [f"fl{os.getpid()}-{next(_numbers)}a" for _ in range(count)]
    if os.geteuid() != 0 or shutil.which("ip") is None:
        missing("root and the program ip, for network namespaces")
    try:
        for name in names:
            _run(f"ip netns add {name}")
            _run(f"ip -n {name} link set lo up")
        yield [("ip", "netns", "exec", name) for name in names]
    except subprocess.CalledProcessError as e:
        missing(f"network namespaces ({' '.join(e.cmd)}: {e.stderr.strip()})")
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _run(f"ip netns del {name}")
