"""Asks far sides for profiles, and waits for them."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

from ..commands.monitor import PATIENCE, View, Views, silence
from ..errors import FlameError
from ..session.session import Session
from . import saving
from .profile import Profile, merged

SECONDS, RATE = 10.0, 100.0
# A live profile is made of parts of this length, in seconds.
LIVE_EVERY = 1.0
# The agent has the same limits.
MOST_SECONDS, MOST_RATE = 3600.0, 1000.0


@dataclasses.dataclass(frozen=True)
class ProfileOptions:
    """What to profile, and how. Raises FlameError for a time or rate out of range.

    scope    ``cell``, ``all`` (the whole process), ``thread``, ``tasks``; empty: the running cells, or all if none runs
    thread   its name or number, for scope ``thread``
    mode     what is counted: ``wall`` (all time), ``cpu``, ``gil`` (CPU time with the interpreter)
    seconds  how long;  rate  samples a second;  idle  whether to include threads that stand still all the time
    """

    scope: str = ""
    thread: str = ""
    mode: str = "wall"
    seconds: float = SECONDS
    rate: float = RATE
    idle: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= MOST_SECONDS:
            raise FlameError(f"--seconds is above 0 and at most {MOST_SECONDS:g}, not {self.seconds:g}")
        if not 1 <= self.rate <= MOST_RATE:
            raise FlameError(f"--rate is from 1 to {MOST_RATE:g} samples a second, not {self.rate:g}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ProfileOptions:
        """The ProfileOptions for a command's options, given by name. Raises FlameError."""
        thread = values.get("thread") or ""
        scopes = [name for name in ("cell", "all", "tasks") if values.get(name)]
        return cls(
            "thread" if thread else scopes[0] if scopes else "",
            thread,
            next((mode for mode in ("cpu", "gil") if values.get(mode)), "wall"),
            SECONDS if values.get("seconds") is None else values["seconds"],
            RATE if values.get("rate") is None else values["rate"],
            bool(values.get("idle")),
        )

    @classmethod
    def named(cls, **how: Any) -> ProfileOptions:
        """The ProfileOptions for the arguments of a library call. Raises FlameError."""
        how = {"scope": "thread", **how} if how.get("thread") else how
        known = [one.name for one in dataclasses.fields(cls)]
        for name in how:
            if name not in known:
                raise FlameError(f"profile() has no argument {name!r}; it has {', '.join(known)}")
        return cls(**how)

    def fields(self) -> dict[str, Any]:
        """The fields of the request to the agent."""
        return dataclasses.asdict(self)


class Taking:
    """A profile being taken. ``result`` waits for it, ``stop`` ends it early.

    ``cell`` is the id of an execute request that will be sent next: the profile then lasts as long as that cell runs.
    ``result`` is called when it is over, which may have been before the first sample.
    """

    def __init__(self, session: Session, options: ProfileOptions, cell: str = "") -> None:
        self._session, self._id = session, uuid.uuid4().hex
        fields = options.fields()
        if cell:
            fields |= {"scope": "cell", "request": cell, "seconds": MOST_SECONDS}
        self._patience, self._is_of_cell = options.seconds + PATIENCE, bool(cell)
        self._future = session.request("profile", self._id, **fields)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the profile early; ``result`` returns what was taken so far."""
        self._stopped.set()
        self._session.request("profile_end", profile=self._id)

    def result(self) -> Profile:
        """The profile. Raises FlameError if none comes in time."""
        if self._is_of_cell:
            self.stop()
        until = time.monotonic() + self._patience
        while True:
            try:
                return Profile.of_reply(self._future.result(0.1), self._session.location)
            except futures.TimeoutError:  # not the built-in one before Python 3.11
                if self._stopped.is_set():
                    until = min(until, time.monotonic() + PATIENCE)
                    self._stopped.clear()
                if time.monotonic() > until:
                    words = f"no profile from {self._session.location}: {silence(self._session)}"
                    raise FlameError(words) from None


def take(session: Session, options: ProfileOptions) -> Profile:
    """Take a profile. Ctrl-C ends it early and returns what was taken so far. Raises FlameError."""
    taking = Taking(session, options)
    try:
        return taking.result()
    except KeyboardInterrupt:
        with contextlib.suppress(FlameError):
            taking.stop()
            return taking.result()
        raise


def together(takings: Mapping[str, Taking]) -> Profile:
    """The profiles of several hosts, as ``gathered``; Ctrl-C ends them early."""
    try:
        return gathered(takings)
    except KeyboardInterrupt:
        for one in takings.values():
            one.stop()
        return gathered(takings)


def finished(profile: Profile, values: Mapping[str, Any], name: str = "") -> tuple[Profile, str]:
    """Compare a profile (option ``against``) and save it (``output``); returns it, and a sentence about the file."""
    against, output = values.get("against"), values.get("output")
    if against:
        profile = profile.against(saving.load(Path(against).expanduser()))
    if not output:
        return profile, ""
    path = Path(output).expanduser()
    saving.save(profile, path, name)
    where = "" if path.suffix.lower() in (".html", ".htm") else "; speedscope and VS Code open it"
    return profile, f"saved in {path}{where}"


def gathered(takings: Mapping[str, Taking]) -> Profile:
    """The profiles of several hosts merged into one; its note names hosts that gave none. Raises FlameError if no host
    gave one."""
    found: dict[str, Profile] = {}
    failed: dict[str, FlameError] = {}
    for host, one in takings.items():
        try:
            found[host] = one.result()
        except FlameError as error:
            failed[host] = error
    if not found and failed:
        raise next(iter(failed.values()))
    profile = merged(found)
    missing = "; ".join(f"no profile of {host}: {error}" for host, error in failed.items())
    return dataclasses.replace(profile, note="; ".join(filter(None, (profile.note, missing))))


def live(views: Views, session: Session, options: ProfileOptions, show: Callable[[dict[str, Any]], None]) -> View:
    """Show a profile that grows in place until the returned view is ended."""
    so_far: list[Profile] = []

    def bundle(reply: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        part = Profile.of_reply(reply, session.location)
        whole = merged({"": so_far.pop(), " ": part}) if so_far else part
        seconds = part.seconds + (whole.seconds if whole is not part else 0.0)
        so_far.append(dataclasses.replace(whole, seconds=seconds, hosts=1, idle=part.idle, note=part.note))
        return dict(so_far[0].bundle()), {}

    fields = dataclasses.replace(options, seconds=LIVE_EVERY).fields()
    view = views.show(session, "profile", fields, bundle, show, 0.0)
    view.shown.wait()
    return view
