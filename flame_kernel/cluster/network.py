"""How the parties of a cluster, this machine and its hosts, reach each other: directly, or by forwarded ports.

*direct*: every host can connect to every other one and to this machine.  We find out by trying: each party listens,
and all others connect to it.

*link*: each process of dask has its own port number on the loopback interface of its host.  On every other party, the
same port is forwarded to it.  So 127.0.0.1:PORT means the same everywhere, nothing listens on another interface, and
traffic between two hosts passes through this machine.  Hosts that share a loopback interface (several Flame servers on
one machine) share the ports.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

from ..connect.target import load_target
from ..errors import FlameError, TargetError
from ..forward.addresses import Spec
from ..forward.forwards import Forward
from . import far_side
from .host import Host

LOOPBACK = "127.0.0.1"
# How many ports are tried until one is free on all parties.
_TRIES = 20


class Here:
    """This machine, with the same ``ask`` as a Host."""

    label = "this machine"
    address = LOOPBACK

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._probes = far_side.Probes()

    async def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function of ``far_side`` here; listeners belong to this object only."""
        mine: dict[str, Callable[..., Any]] = {"open_probes": self._probes.open, "close_probes": self._probes.close}
        function = mine.get(name) or getattr(far_side, name)
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


Party = Here | Host


class Reachability:
    """Which party can connect to which others; ``look`` finds out.

    shared   lists of parties with the same loopback interface; this machine is in the first list
    missing  pairs of parties, of which the first cannot reach the second at any address
    """

    def __init__(self, here: Here, hosts: Sequence[Host]) -> None:
        self._parties: list[Party] = [here, *hosts]
        self._seen: dict[Party, dict[Party, list[str]]] = {}  # party -> party that it reaches -> at these addresses
        self.shared: list[list[Party]] = []
        self.missing: list[tuple[Party, Party]] = []

    async def look(self) -> None:
        """Find out. Raises FlameError if a host does not answer."""
        parties = self._parties
        towards = await asyncio.gather(*(_named(one) for one in parties if isinstance(one, Host)))
        words = ["192.0.2.1", *dict.fromkeys(name for name in towards if name)]  # the first stands for any distant host
        own = await asyncio.gather(*(one.ask("own_addresses", words) for one in parties))
        try:
            opened = await asyncio.gather(
                *(one.ask("open_probes", _texts(found)) for one, found in zip(parties, own, strict=True))
            )
            places = [(whom, place) for whom, found in zip(parties, opened, strict=True) for place in _places(found)]
            asked = await asyncio.gather(*(one.ask("reached", [place for _, place in places]) for one in parties))
        finally:
            await asyncio.gather(*(_close(one) for one in parties))
        for who, answers in zip(parties, asked, strict=True):
            self._seen[who] = _reached(who, places, answers)
        self._share()

    def _share(self) -> None:
        for one in self._parties:
            for group in self.shared:
                if LOOPBACK in self._seen[group[0]].get(one, ()):
                    group.append(one)
                    break
            else:
                self.shared.append([one])

    def address(self, whom: Party, asking: Iterable[Party]) -> str | None:
        """An address at which all of ``asking`` reach ``whom``; if there is none, None and an entry in ``missing``."""
        asking = [one for one in asking if one is not whom]
        own = self._seen[whom].get(whom, [])
        for address in own:
            if all(address in self._seen[one].get(whom, ()) for one in asking):
                return address
        blind = [one for one in asking if not self._seen[one].get(whom)] or asking
        self.missing += [(one, whom) for one in blind]
        return None

    def why_not(self) -> str:
        """Who cannot reach whom, in words."""
        pairs = [f"{one.label} cannot reach {whom.label}" for one, whom in self.missing]
        return ", ".join(pairs[:2]) + (f", and {len(pairs) - 2} more" if len(pairs) > 2 else "")


async def _named(host: Host) -> str:
    """The name or address of the host's machine as the user gave it; empty if it is unknown."""
    with contextlib.suppress(TargetError):
        location = load_target(host.where).location if host.remote is None else host.remote.target.location
        if location is not None:
            return location.host or (location.ssh.host if location.ssh is not None else "")
    return ""


def _texts(found: Any) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(one, str) and len(one) < 100 for one in found):
        raise FlameError("a host did not say which addresses it has")
    return found[:8]


def _places(found: Any) -> list[tuple[str, int, str]]:
    sound = isinstance(found, list) and all(
        isinstance(one, (list, tuple)) and [type(part) for part in one] == [str, int, str] for one in found
    )
    if not sound:
        raise FlameError("a host did not say where it listens")
    return [(address, port, word) for address, port, word in found]


def _reached(who: Party, places: list[tuple[Party, tuple[str, int, str]]], answers: Any) -> dict[Party, list[str]]:
    """The addresses at which ``who`` has reached each party, according to its ``answers``."""
    if not isinstance(answers, list) or len(answers) != len(places):
        raise FlameError(f"{who.label} did not answer what it reaches")
    found: dict[Party, list[str]] = {}
    for (whom, (address, _, _)), answer in zip(places, answers, strict=True):
        if answer is True:
            found.setdefault(whom, []).append(address)
    return found


async def _close(party: Party) -> None:
    with contextlib.suppress(FlameError):  # the host is lost, and its listeners with it
        await party.ask("close_probes")


class Ports:
    """Forwards ports for network ``link``: makes a port of one party reachable from all others, and takes it back.

    shared  as in `Reachability`
    """

    def __init__(self, shared: Sequence[Sequence[Party]], threads: Executor) -> None:
        self._shared = shared
        self._threads = threads
        self._owners: dict[int, Party] = {}
        self._made: dict[int, list[Forward]] = {}
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Ports {sorted(self._owners)}>"

    async def publish(self, owner: Party, count: int) -> list[int]:
        """Choose free ports, and forward them from all parties to the loopback of ``owner``. Raises FlameError."""
        found: list[int] = []
        async with self._lock:
            error: FlameError | None = None
            for _ in range(_TRIES):
                if len(found) == count:
                    return found
                (port,) = await owner.ask("free_ports", 1)
                try:
                    await self._lead(int(port), owner)
                except FlameError as e:
                    error = e
                else:
                    found.append(int(port))
        for port in found:
            await self.take_back(port)
        raise FlameError(f"no port is free at all parties of the cluster: {error}")

    async def _lead(self, port: int, owner: Party) -> None:
        self._made[port], self._owners[port] = [], owner
        try:
            for group in self._shared:
                if owner in group and group is not self._shared[0]:
                    await self._forward(port, owner, reverse=False)
                elif owner not in group and group is not self._shared[0]:
                    carrier = next((one for one in group if isinstance(one, Host) and one.is_ready), None)
                    if carrier is not None:
                        await self._forward(port, carrier, reverse=True)
        except BaseException:  # raised again, whatever it is
            await self.take_back(port)
            raise

    async def _forward(self, port: int, carrier: Party, reverse: bool) -> None:
        assert isinstance(carrier, Host)
        assert carrier.remote is not None
        spec, forwards = Spec((LOOPBACK, port), (LOOPBACK, port)), carrier.remote.forwards
        made = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: forwards.add(spec, reverse=reverse)
        )
        self._made[port].append(made)

    async def restore(self, host: Host) -> None:
        """Called when ``host`` has a new session: forward the other parties' ports there again. Raises FlameError."""
        group = next(one for one in self._shared if host in one)
        if group is self._shared[0]:
            return
        async with self._lock:
            for port, owner in list(self._owners.items()):
                if owner not in group and not any(
                    one is not host and isinstance(one, Host) and one.is_ready for one in group
                ):
                    await self._forward(port, host, reverse=True)

    async def take_back(self, port: int) -> None:
        """End the forwards of a port."""
        self._owners.pop(port, None)
        for one in self._made.pop(port, []):
            await asyncio.get_running_loop().run_in_executor(self._threads, one.close)
