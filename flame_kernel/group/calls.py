"""The calls of a group, shared by `Group` (which waits for results) and `NoBlock` (which returns futures)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import quote

from ..files import sync, transfer
from ..remote.far_names import identifier
from ..remote.remote import Remote
from .cell import CellResults, begin_cell
from .future import GroupFuture, Make
from .member import Begun, Member
from .output import HostOutput
from .parts import parts
from .results import Results


class Asked(Protocol):
    """The part of a group that its calls need."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def members(self) -> tuple[Member, ...]: ...

    def _hold(self, code: str | Callable[..., Any]) -> None: ...

    def _begin(
        self, work: Callable[[Member, Remote], Any], make: Make = Results, quick: bool = False
    ) -> GroupFuture: ...


class Calls:
    """The calls of a group. Subclasses define ``_group``, and ``_do``: it waits for the results or returns a future."""

    @property
    def _group(self) -> Asked:
        raise NotImplementedError

    def _do(self, work: Callable[[Member, Remote], Any], make: Make = Results, quick: bool = False) -> Any:
        raise NotImplementedError

    def _once(self, work: Callable[[Member, Remote], Any]) -> Any:
        """Do ``work`` on the first session of each server; the other sessions answer None."""
        first: dict[str, Member] = {}
        for member in self._group.members:
            first.setdefault(member.where, member)
        return self._do(lambda member, remote: work(member, remote) if first[member.where] is member else None)

    def each(self, work: Callable[[Remote], Any]) -> Any:
        """What ``work`` returns for each host's `Remote`; it is called on a thread of that host."""
        return self._do(lambda member, remote: work(remote))

    def connect(self) -> Any:
        """Connect to the hosts that are not connected yet; the sessions, by host."""
        return self._do(lambda member, remote: remote.session)

    def execute(self, code: str, *, timeout: float | None = None) -> Any:
        """Run statements in the namespace of each session."""
        self._group._hold(code)
        return self._do(lambda member, remote: remote.execute(code, timeout=timeout))

    def evaluate(self, expression: str, *, ref: bool = False, timeout: float | None = None) -> Any:
        """The value of an expression on each host; with ``ref`` a stand-in for the value."""
        self._group._hold(expression)
        return self._do(lambda member, remote: remote.evaluate(expression, ref=ref, timeout=timeout))

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a local function on each host, as `Remote.run` does."""
        self._group._hold(function)
        return self._do(lambda member, remote: remote.run(function, *args, **kwargs))

    def push(self, values: Mapping[str, Any]) -> Any:
        """Bind names on each host to the same values."""
        _check(values)
        return self._do(lambda member, remote: remote.push(values))

    def pull(self, names: str | Sequence[str]) -> Any:
        """The value of a name on each host, or of several names as a dict."""
        _check([names] if isinstance(names, str) else names)
        if isinstance(names, str):
            return self._do(lambda member, remote: remote.pull([names])[names])
        return self._do(lambda member, remote: remote.pull(names))

    def scatter(self, name: str, values: Sequence[Any]) -> Any:
        """Split ``values`` (a list, array, frame, …) evenly and in order, and bind ``name`` on each host to its part.

        Raises FlameError if there are fewer items than hosts.
        """
        _check([name])
        labels = self._group.labels
        shares = dict(zip(labels, parts(values, labels), strict=True))
        return self._do(lambda member, remote: remote.push({name: shares[member.label]}))

    def put(self, *paths: transfer.Name, dst: transfer.Name | None = None) -> Any:
        """Copy files and folders from here to each host, as `Remote.put`; only once per server."""
        return self._once(lambda member, remote: remote.put(*paths, dst=dst, progress=False))

    def get(self, *paths: transfer.Name, dst: transfer.Name = ".") -> Any:
        """Copy files and folders from each host into a folder of its own, ``dst/HOST/``."""

        def fetch(member: Member, remote: Remote) -> Any:
            folder = _folder(os.fsdecode(dst), member)
            return remote.get(*paths, dst=folder, progress=False)

        return self._do(fetch)

    def sync(
        self,
        source: str,
        destination: str,
        *,
        delete: bool = False,
        exclude: Sequence[str] = (),
        checksum: bool = False,
        dry_run: bool = False,
        down: bool = False,
        report: Callable[[str, str], None] | None = None,
    ) -> Any:
        """Make a folder on each host equal to a local one, only once per server; with ``down`` a folder of each host
        is copied into ``destination/HOST/``.

        ``report`` is called with the host and a line for each thing that is done, or with ``dry_run`` would be.
        """

        def options(label: str) -> sync.SyncOptions:
            told = partial(report, label) if report is not None else lambda line: None
            return sync.SyncOptions(
                delete=delete, dry_run=dry_run, checksum=checksum, exclude=tuple(exclude), report=told
            )

        def fetch(member: Member, remote: Remote) -> Any:
            folder = _folder(destination, member, make=not dry_run)
            return sync.sync_down(remote.session, source, folder, options(member.label), progress=False)

        def send(member: Member, remote: Remote) -> Any:
            return sync.sync_up(remote.session, source, destination, options(member.label), progress=False)

        return self._do(fetch) if down else self._once(send)

    def sendmodule(self, module: str | ModuleType, source: str | None = None) -> Any:
        """Make a module importable on each host, as `Remote.sendmodule`."""
        return self._do(lambda member, remote: remote.sendmodule(module, source))

    def hot(self, *folders: str | os.PathLike[str], reload: bool = False) -> Any:
        """Serve the modules of these folders to imports on each host, as `Remote.hot`."""
        return self._do(lambda member, remote: remote.hot(*folders, reload=reload))

    def hotfix(self, name: str, new: str | Callable[..., Any]) -> Any:
        """Give a function of the program on each host new code, as `Remote.hotfix`; the `Fix` of each."""
        self._group._hold("")
        return self._do(lambda member, remote: remote.hotfix(name, new))

    def cell(
        self,
        code: str,
        *,
        values: Mapping[str, Any] | None = None,
        on_text: Callable[[str, str, str], None] | None = None,
        silent: bool = False,
        store_history: bool = True,
        program: Mapping[str, Any] | None = None,
        modules: Sequence[ModuleType] = (),
        count: int | None = None,
        notebook: bool = False,
    ) -> Any:
        """Run a cell on each host; the `CellResults` have its output.

        ``values`` are bound to names before the cell, and ``modules`` sent there; ``on_text`` is called with each piece
        of text as it comes: host, stream, text.  ``program`` and ``count`` are as for ``Remote.cell``.
        With ``notebook``, each session says once that its rich output is off, if it is.
        """
        _check(values or ())
        if not isinstance(code, str):
            raise TypeError(f"expected text, not {type(code).__name__}")
        self._group._hold(code)
        outputs = {
            label: HostOutput(label, None if on_text is None else partial(on_text, label))
            for label in self._group.labels
        }

        def work(member: Member, remote: Remote) -> Begun:
            if values:
                remote.push(values)
            for module in modules:
                remote.sendmodule(module)
            more = {"silent": silent, "store_history": store_history, "program": program, "count": count}
            output = outputs[member.label]
            rendering = member.rendering(remote, output.withheld, notebook)
            return begin_cell(remote, code, output, rendering, **more)  # type: ignore[arg-type]

        return self._do(work, partial(CellResults, outputs), quick=not values and not modules)


class NoBlock(Calls):
    """``group.noblock``: each call returns a `GroupFuture` at once."""

    def __init__(self, group: Asked) -> None:
        self._asked = group

    @property
    def _group(self) -> Asked:
        return self._asked

    def _do(self, work: Callable[[Member, Remote], Any], make: Make = Results, quick: bool = False) -> GroupFuture:
        return self._group._begin(work, make, quick)


def _check(names: Iterable[str]) -> None:
    """Raise TargetError for what is no name, once and before a host is asked."""
    for name in names:
        identifier(name, "a name")


def folder_of(label: str) -> str:
    """A member's label in a form that is valid as the name of a folder."""
    return quote(label.replace("/", "~"), safe="~@").lstrip(".") or "_"


def _folder(parent: str, member: Member, make: bool = True) -> str:
    """The folder in ``parent`` for what comes from a member."""
    folder = os.path.join(parent, folder_of(member.label))
    if make:
        os.makedirs(folder, exist_ok=True)
    return folder
