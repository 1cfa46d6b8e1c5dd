"""Doctor: diagnoses a connection by one check for each cause, in the order in which things can fail, with its cure.

A check is skipped if another one that it needs has failed. Doctor connects exactly as a session does, so it finds the
same faults, and the same rules hold: no unprotected link to a server that needs protection.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, TypeGuard

from Pyro4 import constants

from ..connect.dial import addresses
from ..connect.installation import another_flame
from ..connect.name_server import found
from ..connect.target import Target
from ..connect.tls import Tls
from ..connect.units import size_in_words
from ..errors import AgentError, CannotConnect, FlameError, TargetError, cap
from ..serve.embedded import EmbeddedServer
from ..session.agent_client import AgentClient
from ..session.bootstrap import agent_text
from ..terminal import plain_text
from .identify import identify
from .monitor import gpu_lines

OK, NOTE, FAILED, SKIPPED = "ok", "note", "failed", "skipped"
# The sign before the text of a check.
MARKS = {OK: "✓", NOTE: "!", FAILED: "✗", SKIPPED: "-"}
_COLOURS = {OK: "success", NOTE: "warn", FAILED: "error", SKIPPED: "border"}  # as JupyterLab's themes name them

# What is missing if a package is not installed there.
_LACKS = {
    "IPython": "cells run in the agent's own shell, which knows the common magics",
    "matplotlib": "no figures",
    "ipywidgets": "no widgets made there",
    "debugpy": "no debugger there",
    "pyarrow": "Arrow tables do not travel, nor do DataFrames of some types",
    "cloudpickle": "lambdas and classes of a notebook do not travel as pickles",
    "dask": "it cannot be a host of a FlameCluster",
}
# All checks except the first ones, which depend on the kind of location.
_COMMON = (
    *("port", "answer", "TLS", "key", "Flame", "server type", "threads", "versions", "agent"),
    *("round trip", "throughput", *_LACKS, "clock", "disk"),
)
# Which check fails if connecting fails for this cause; causes that begin with tls are for the check TLS.
_STAGES = {
    "ssh": "ssh",
    "ssh_denied": "ssh",
    "unresolvable": "name",
    **dict.fromkeys(("refused", "unreachable", "timeout"), "port"),
    "key_wrong": "key",
    "key_missing_here": "key",
    "key_missing_there": "key",
    "not_flame": "Flame",
    "pool_full": "threads",
}
DAEMON = f"a Pyro4 daemon, wire protocol {constants.PROTOCOL_VERSION}"
_NEEDED = (3, 6)
_FULL_SHELL = (3, 7)
_LEAST_IPYTHON = (7, 17)
# How many connections a session takes; with fewer than `_FEW` free ones, doctor says so.
_SESSION, _FEW = 2, 6
_SLOW = 0.25  # seconds: a round trip that a user notices with each cell
_NARROW = 1e6  # bytes a second
_PINGS = 15
# Bytes sent first, and at most; seconds that suffice; seconds by which two clocks may differ.
_PIECE, _MOST, _LONG, _APART = 1 << 16, 1 << 22, 0.2, 2.0


@dataclass(frozen=True)
class Check:
    """One line: what is checked, the verdict (ok, note, failed, skipped), the finding, and a cure if one is needed."""

    name: str
    verdict: str
    words: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{MARKS[self.verdict]} {self.name:<12} {self.words}" + (f"; {self.cure}" if self.cure else "")


class _Failed(Exception):
    """A check that others need has failed."""

    def __init__(self, name: str, words: str, cure: str) -> None:
        super().__init__(name)
        self.check = Check(name, FAILED, _shown(words), _shown(cure))


def examine(target: Target) -> Iterator[Check]:
    """The checks of ``target``, each as soon as it is made; if it names no server, a server of our own is examined."""
    if not target.own and (other := another_flame()):
        yield Check("flame", NOTE, _shown(other))
    if target.location is None:
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(contextlib.closing(EmbeddedServer(agent_text())))
            except FlameError as error:
                yield Check("server", FAILED, _shown(str(error)), "check that Pyro4 is installed here")
                return
            yield Check("server", OK, f"none was named, so a local test server was started: {server.location}")
            yield from examine(server.target())
        return
    left = _plan(target)
    broken = ""
    made = _Examination(target)
    try:
        for check in made.checks():
            left = list(filter(check.name.__ne__, left))  # not remove(): GPUs are not in the plan
            yield check
    except (_Failed, FlameError) as error:
        failure = error.check if isinstance(error, _Failed) else _broken(left[0], error)
        if failure.name not in left:  # this check was passed already, so the link broke after it
            failure = replace(failure, name=left[0])
        broken = failure.name
        # The checks that were passed before.
        for name in [name for name in left if name != broken]:
            words = made.passed.get(name)
            if words is not None:
                left.remove(name)
                yield Check(name, OK, words)
        left.remove(broken)
        yield failure
    finally:
        made.close()
    for name in left:
        yield Check(name, SKIPPED, f"needs {broken}")


def of_target(error: TargetError) -> Check:
    """The only check of a target that cannot be used."""
    return _broken("target", error)


def folded(checks: Iterable[Check]) -> Iterator[Check]:
    """The checks for people: those that are skipped for the same reason stand on one line."""
    skipped: list[Check] = []
    for check in checks:
        if check.verdict == SKIPPED and (not skipped or skipped[0].words == check.words):
            skipped.append(check)
            continue
        yield from _together(skipped)
        skipped = []
        yield check
    yield from _together(skipped)


def _together(skipped: list[Check]) -> Iterator[Check]:
    if skipped:
        yield Check("skipped", SKIPPED, f"{', '.join(check.name for check in skipped)}: {skipped[0].words}")


def _plan(target: Target) -> list[str]:
    assert target.location is not None
    first = ["name server"] if target.location.name else []
    if target.location.ssh is not None:
        first.append("ssh")
    elif not target.location.path:
        first.append("name")
    at = 0 if target.location.ssh is not None else len(first)
    return [*first[:at], "protection", *first[at:], *_COMMON]


def _broken(name: str, error: FlameError) -> Check:
    """The check ``name``, failed by something that it does not look for, such as a link that broke just then."""
    words, _, cure = str(error).partition("; ")
    return Check(name, FAILED, _shown(words), _shown(cure) or "try again, and look at what the server printed")


class _Examination:
    """The checks one after the other. ``passed`` has text for those that were passed when a later one failed."""

    def __init__(self, target: Target) -> None:
        self.passed: dict[str, str] = {}
        self._target = target
        self._client: AgentClient | None = None
        self._python: tuple[int, ...] = ()
        self._facts: dict[str, Any] = {}
        self._clock = Check("clock", NOTE, "the server did not tell its time")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def checks(self) -> Iterator[Check]:
        yield from self._name()
        yield self._protection()
        if self._target.location is not None and self._target.location.ssh is not None:
            yield from self._connect("ssh", "logged in")
            yield Check("port", OK, "open there")
        else:
            yield from self._connect("port", "open")
        yield Check("answer", OK, DAEMON)
        yield self._tls()
        yield self._key()
        yield self._flame()
        yield self._server_type()
        yield from self._agent()
        yield from self._speed()
        yield from map(self._package, _LACKS)
        yield self._clock
        yield self._disk()
        yield from (Check("GPU", OK, words) for words in gpu_lines(self._facts.get("gpus") or ()))

    # -- the way there -----------------------------------------------------------------------------------------------

    def _name(self) -> Iterator[Check]:
        place = self._target.location
        assert place is not None
        if place.name:
            try:
                self._target = found(self._target)
            except CannotConnect as error:
                raise _Failed("name server", _seen(error), error.advice) from error
            yield Check("name server", OK, f"{place.name} is at {self._target.location}")
            place = self._target.location
            assert place is not None
        if place.ssh is None and not place.path:
            try:
                where = addresses(place)
            except CannotConnect as error:
                raise _Failed("name", f"{place.host}: {_seen(error)}", error.advice) from error
            yield Check("name", OK, f"{place.host} is {', '.join(str(address[0]) for _, address in where)}")
        elif self._target.sought is not None and place.path:
            yield Check("name", OK, "a unix socket of this machine")

    def _protection(self) -> Check:
        """Whether the link is safe enough to connect at all; nothing has been sent before this check."""
        try:
            self._target.check_exposure()
        except TargetError as error:
            words, _, cure = str(error).partition("; ")
            raise _Failed("protection", words, cure) from error
        cautions = self._target.cautions()
        if cautions:
            return Check("protection", NOTE, _shown("; ".join(cautions)))
        place = self._target.location
        here = place is not None and place.is_loopback
        return Check("protection", OK, "the link stays on this machine" if here else self._target.protection)

    def _connect(self, name: str, words: str) -> Iterator[Check]:
        self.passed = {"ssh": "logged in", "port": "open"}
        try:
            self._client = AgentClient(self._target)
        except CannotConnect as error:
            raise self._diagnosed(error) from error
        yield Check(name, OK, words)

    def _diagnosed(self, error: CannotConnect) -> _Failed:
        """The failed check for an error; ``passed`` gets the text of checks that passed before it."""
        stage = _STAGES.get(error.cause, "TLS" if error.cause.startswith("tls") else "answer")
        if error.cause == "timeout" and error.detail:
            stage = "answer"
        words, cure = _seen(error), error.advice
        if stage in ("answer", "TLS", "Flame"):
            answerer = identify(replace(self._target, key=None), error)
            self.passed["answer"] = answerer.words
            if not answerer.welcome:
                words, cure = answerer.words, answerer.cure
                stage = stage if self._client is not None else "answer"
            elif stage == "Flame":
                words = f"not enabled: it is {answerer.words}"
                self.passed["answer"] = DAEMON
        else:
            self.passed["answer"] = DAEMON
        self.passed["TLS"] = self._tls_words()
        self.passed["key"] = "the same on both sides" if self._target.key is not None else "none on either side"
        plan = _plan(self._target)
        passed = plan[: plan.index(stage)] if stage in plan else []
        if stage == "threads":  # it is refused before the key is checked
            passed = [name for name in passed if name not in ("key", "Flame", "server type")]
        self.passed = {name: text for name, text in self.passed.items() if name in passed}
        return _Failed(stage, words, cure)

    def _tls_words(self) -> str:
        settings = self._target.tls
        if settings is None:
            return "none" if self._target.is_private else "no encryption: others on the network can read what is sent"
        return "; ".join(_tls_parts(settings))

    def _tls(self) -> Check:
        settings = self._target.tls
        if settings is not None and not settings.verify:
            return Check(
                "TLS",
                NOTE,
                "in use, but the certificate is not checked: anyone in between can read and change what is sent",
                "name its CA",
            )
        return Check("TLS", OK, self._tls_words())

    def _key(self) -> Check:
        target = self._target
        if target.key is not None:
            return Check("key", OK, "the same on both sides")
        safe = target.location is not None and bool(target.location.path)
        if safe or (target.tls is not None and target.tls.certificate is not None):
            return Check("key", OK, "none on either side")
        return Check(
            "key",
            NOTE,
            "none on either side: whoever reaches that port can run code there",
            "start the server with a key (jupyter flame serve, or PYRO_HMAC_KEY), and give it here",
        )

    # -- the server --------------------------------------------------------------------------------------------------

    def _call(self, expression: str) -> Any:
        assert self._client is not None
        return self._client.connection.call("evaluate", expression)

    def _flame(self) -> Check:
        try:
            version = self._call("list(__import__('sys').version_info[:3])")
        except CannotConnect as error:
            raise self._diagnosed(error) from error
        except FlameError as error:
            raise _Failed("Flame", f"it does not run code: {error}", "look at what it printed") from error
        if not isinstance(version, list) or len(version) != 3 or not all(map(_is_count, version)):
            raise _Failed("Flame", "it does not say which Python it is", "check that you reach the server you mean")
        self._python = tuple(version)
        return Check("Flame", OK, "enabled")

    def _server_type(self) -> Check:
        kind = self._call("__import__('Pyro4').config.SERVERTYPE")
        kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else kind  # Python 2
        if kind != "multiplex":
            return Check("server type", OK, _shown(str(kind)))
        words = (
            "multiplex, which serves one call at a time: output comes in short polls, "
            "and a long call holds up everything"
        )
        return Check("server type", NOTE, words, "start it with PYRO_SERVERTYPE=thread")

    def _agent(self) -> Iterator[Check]:
        """Check threads, versions and agent. The agent gives the facts for the first two, and itself needs
        Python 3.6 or newer."""
        python = ".".join(map(str, self._python))
        if self._python[:2] < _NEEDED:
            raise _Failed("versions", f"Python {python} there", "run the server on Python 3.6 or newer")
        assert self._client is not None
        began = time.monotonic()
        try:
            self._client.begin()
            took = time.monotonic() - began
            facts = self._client.ask("checkup")
        except FlameError as error:
            why = error.message if isinstance(error, AgentError) else str(error)
            raise _Failed("agent", f"it cannot be pushed: {why}", "look at what the server printed") from error
        self._facts = facts if isinstance(facts, dict) else {}
        yield self._threads()
        pyro = f"Pyro {_text(self._facts.get('pyro'))}, Python {python} there; Pyro {constants.VERSION} here"
        if self._python[:2] < _FULL_SHELL:
            old = f"{pyro}: too old for IPython, so cells run in the agent's own shell"
            yield Check("versions", NOTE, old, "a newer Python there has more magics and better tracebacks")
        else:
            yield Check("versions", OK, pyro)
        yield Check("agent", OK, f"pushed, in {1000 * took:.0f} ms" if took > 0.005 else "there already")
        self._client.connection.pickle_protocol = 4

    def _threads(self) -> Check:
        workers = self._facts.get("workers")
        if not (isinstance(workers, list) and len(workers) == 2 and all(map(_is_count, workers))):
            return Check("threads", OK, "none are needed: one thread serves all")
        busy, most = workers[0] - 1, workers[1]  # one is for this call
        words = f"{most - busy} of {most} connections are free"
        cure = "close other clients, or start it with a larger PYRO_THREADPOOL_SIZE"
        if most - busy < _SESSION:
            return Check("threads", FAILED, f"{words}, and a session takes {_SESSION}", cure)
        return Check("threads", OK, words) if most - busy >= _FEW else Check("threads", NOTE, words, cure)

    # -- how well it goes --------------------------------------------------------------------------------------------

    def _speed(self) -> Iterator[Check]:
        times, offsets = [], []
        for _ in range(_PINGS):
            began, clock = time.monotonic(), time.time()
            there = self._call("__import__('time').time()")
            times.append(time.monotonic() - began)
            if isinstance(there, float):
                offsets.append((times[-1], there - clock - times[-1] / 2))
            if sum(times) > 5:
                break
        middle = statistics.median(times)
        words = f"{1000 * middle:.1f} ms, at worst {1000 * max(times):.1f} ms"
        slow = "each cell takes at least that long; is there a nearer way?" if middle > _SLOW else ""
        yield Check("round trip", NOTE if slow else OK, words, slow)
        down, up = self._throughput(up=False), self._throughput(up=True)
        narrow = "files and figures will be slow" if min(down, up) < _NARROW else ""
        words = f"{size_in_words(down)}/s from there, {size_in_words(up)}/s to there"
        yield Check("throughput", NOTE if narrow else OK, words, narrow)
        if offsets:
            self._clock = _compared(offsets)

    def _throughput(self, up: bool) -> float:
        """The bytes per second, from pieces that get larger until one takes long enough to measure."""
        assert self._client is not None
        size = _PIECE
        while True:
            piece = self._call(f"__import__('os').urandom({_PIECE}) * {size // _PIECE}") if up else b""
            began = time.monotonic()
            if up:
                self._client.connection.call("invokeModule", "builtins.len", (piece,), {})
            else:
                self._call(f"__import__('os').urandom({_PIECE}) * {size // _PIECE}")
            took = time.monotonic() - began
            if took > _LONG or size >= _MOST:
                return size / max(took, 1e-6)
            size *= 4

    # -- what is there -----------------------------------------------------------------------------------------------

    def _package(self, name: str) -> Check:
        packages = self._facts.get("packages")
        version = packages.get(name) if isinstance(packages, dict) else None
        wanted = '"dask[distributed]"' if name == "dask" else name.lower()
        install = f"pip install {wanted} there; without internet there: %flame pip install {wanted}"
        if not isinstance(version, str):
            return Check(name, NOTE, f"not installed there: {_LACKS[name]}", install)
        if name == "IPython" and _numbers(version) < _LEAST_IPYTHON:
            return Check(name, NOTE, f"{_text(version)} is too old: the agent's own shell is used", install)
        return Check(name, OK, _text(version) or "there")

    def _disk(self) -> Check:
        folder, free, journal = (self._facts.get(name) for name in ("folder", "free", "journal"))
        if not isinstance(folder, str) or not folder or not _is_count(free):
            return Check("disk", NOTE, "no folder for temporary files can be written there", "set TMPDIR of the server")
        wanted = self._target.journal or (journal if _is_count(journal) else 0)
        words = f"{size_in_words(free)} free in {_text(folder)}, where output waits that nobody has read"
        if free < wanted:
            cure = "make room there, or set a smaller journal"
            return Check("disk", NOTE, f"{words}; up to {size_in_words(wanted)} of it are kept", cure)
        return Check("disk", OK, words)


def _compared(offsets: list[tuple[float, float]]) -> Check:
    took, apart = min(offsets)  # the quickest round trip is the most exact
    if abs(apart) - took / 2 < _APART:
        return Check("clock", OK, f"in step, within {max(took / 2 * 1000, 1):.0f} ms")
    side = "ahead of" if apart > 0 else "behind"
    words = f"{abs(apart):.0f} s {side} ours"
    return Check("clock", NOTE, words, "set it by NTP: certificates and the times of files depend on it")


def _tls_parts(settings: Tls) -> list[str]:
    parts = [
        "certificate verified"
        if settings.ca
        else "certificate pinned"
        if settings.pin
        else "certificate as at first contact"
    ]
    if settings.certificate is not None:
        parts.append(f"client certificate {Path(settings.certificate).name}")
    return parts


def _seen(error: CannotConnect) -> str:
    return error.what + (f" ({error.detail})" if error.detail else "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal() and len(part) < 6)


def _is_count(value: Any) -> TypeGuard[int]:
    """Whether it is a plausible number: a server may send any."""
    return type(value) is int and 0 <= value < 1 << 63


def _text(value: Any) -> str:
    return _shown(value) if isinstance(value, str) else ""


def _shown(text: str) -> str:
    """Text of a server on one line, and not too long."""
    return cap(" ".join(plain_text(text).split()), 500)


def bundle(checks: Iterable[Check]) -> dict[str, str]:
    """The checks as a MIME bundle: lines, and a table."""
    checks = list(folded(checks))
    rows = []
    for check in checks:
        cure = f"<br><em>{escape(check.cure)}</em>" if check.cure else ""
        mark = f'<span style="color:var(--jp-{_COLOURS[check.verdict]}-color1)">{MARKS[check.verdict]}</span>'
        cells = (mark, escape(check.name), escape(check.words) + cure)
        rows.append("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>")
    return {"text/plain": "\n".join(map(str, checks)), "text/html": f"<table>{''.join(rows)}</table>"}
