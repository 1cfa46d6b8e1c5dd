"""What ``%flame`` lines ask of all hosts of a group, for the kernel and the magics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..commands import rails
from ..errors import FlameError
from ..hot import commands
from ..profile.asking import ProfileOptions, Taking
from ..session.session import Session
from . import folding
from .future import GroupFuture
from .group import Group
from .results import Results


def connected(group: Group) -> dict[str, Session]:
    """The sessions of the connected hosts, by host. Raises FlameError if there is none."""
    found = {one.label: one.known.session for one in group.members if one.known is not None}
    if not found:
        raise FlameError("no host is connected yet; the first cell does that")
    return found


def looked(group: Group, once: Callable[[Session], str], mask: bool) -> str:
    """What ``once`` says of each connected host, all asked at once, also while something runs there. Blocks."""
    said: dict[str, str] = {}

    def ask(host: str, session: Session) -> None:
        try:
            said[host] = once(session)
        except FlameError as error:
            said[host] = str(error)

    hosts = connected(group)
    asked = [threading.Thread(target=ask, args=one, name="flame-look", daemon=True) for one in hosts.items()]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    return folding.told({host: said[host] for host in hosts if host in said}, diff=False, mask=mask, total=len(group))


def noted(group: Group) -> str:
    """What rails have noted, in words: in the file of the first host that has rails. Raises FlameError."""
    return rails.audit(next(iter(rails.of_hosts(group.members).values()), None))


def profiles(group: Group, values: Mapping[str, Any]) -> dict[str, Taking]:
    """The profiles that begin now on the connected hosts, by host. Raises FlameError."""
    options = ProfileOptions.of(values)
    return {host: Taking(session, options) for host, session in connected(group).items()}


def hot(group: Group, values: Mapping[str, Any]) -> tuple[GroupFuture, Callable[[Results], str]]:
    """``%flame hot`` on all hosts: its future, and what tells its results."""
    future = group.noblock.each(lambda remote: commands.hot(remote.session, values))
    return future, lambda results: folding.told(dict(results.ok), total=len(results))


def hotfix(
    group: Group, values: Mapping[str, Any], text: str, offer: Callable[[str], Any]
) -> tuple[GroupFuture, Callable[[Results], str]]:
    """``%flame hotfix`` on all hosts. A function's present text goes to ``offer``, for the next cell: that of the first
    host."""

    def tell(results: Results) -> str:
        offered = list(dict.fromkeys(following for _, following in results.ok.values() if following))
        if offered:
            offer(offered[0])
        more = ["The hosts have different texts; this is the first one's."] if len(offered) > 1 else []
        shown = {host: shown for host, (shown, _) in results.ok.items()}
        return "\n".join([folding.told(shown, mask=True, total=len(results)), *more])

    return group.noblock.each(lambda remote: commands.hotfix(remote.session, values, text)), tell
