"""The forwarding commands of ``%flame`` and ``jupyter flame``, and the text that they show."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import FlameError, TargetError
from ..terminal import plain_text
from . import browser
from .addresses import shown
from .forwards import Forward, Forwards

COLUMNS = ("forward", "connections", "trouble")


def open_all(forwards: Forwards, ports: Sequence[str], asked: Mapping[str, Any]) -> list[Forward]:
    """Open everything that is asked for, or nothing: ``asked`` has the options by name. Raises FlameError."""
    local, socks, unix = asked.get("local"), asked.get("socks"), asked.get("unix")
    if local is not None and unix is not None:
        raise TargetError("--local and --unix both say where to listen here; give one of them")
    local = unix if local is None else local
    if not ports and socks is None:
        raise TargetError("name a port, such as 6006 or 8080:host:80; or --socks PORT")
    if len(ports) > 1 and local is not None:
        raise TargetError(f"{len(ports)} ports cannot all be at {local} here; write 8080:6006 for each")
    made: list[Forward] = []
    try:
        if socks is not None:
            at = local if local is not None and not ports else socks
            made.append(forwards.open(socks=True, local=at, bind=asked.get("bind")))
        for port in ports:
            host, bind, reverse = asked.get("host"), asked.get("bind"), bool(asked.get("reverse"))
            made.append(forwards.open(port, local=local, reverse=reverse, host=host, bind=bind))
    except BaseException:  # raised again, whatever it is; a line does all that it says, or nothing
        for one in made:
            one.close()
        raise
    return made


def text(made: Sequence[Forward], in_notebook: bool = False) -> str:
    """A line for each forward, and warnings."""
    lines = [line for one in made for line in _lines(one, in_notebook)]
    return plain_text("\n".join(lines))


def bundle(made: Sequence[Forward]) -> dict[str, str]:
    """The same for a notebook: with links that work in the user's browser."""
    rows = []
    for one in made:
        href = "" if one.reverse else browser.link(one)
        words = html.escape(plain_text(str(one)))
        if href:
            link = html.escape(href, quote=True)
            words = f"{_anchor(link)} &nbsp; {words}"
            if href != one.url:  # for pages that cannot be below another address
                here = _anchor(html.escape(one.url, quote=True))
                words += f"<br><small>In a browser on this machine also {here}</small>"
        notes = "".join(f"<br><small>{html.escape(plain_text(said))}</small>" for said in _notes(one, True))
        rows.append(f"<div>{words}{notes}</div>")
    return {"text/plain": text(made, True), "text/html": "".join(rows)}


def _anchor(link: str) -> str:
    return f'<a href="{link}" target="_blank" rel="noopener">{link}</a>'


def _lines(one: Forward, in_notebook: bool) -> list[str]:
    href = "" if one.reverse else browser.link(one) if in_notebook else one.url
    return [f"{href}  {one}" if href else str(one), *_notes(one, in_notebook)]


def _notes(one: Forward, in_notebook: bool) -> list[str]:
    notes = [said[:1].upper() + said[1:] + "." for said in one.warnings]
    if in_notebook and not one.reverse and browser.needs_a_browser_here(one):
        notes.append(
            "The link works where your browser is on this machine; with jupyter-server-proxy beside Jupyter "
            "(pip install jupyter-server-proxy) it works from anywhere."
        )
    return notes


def table(forwards: Forwards | None) -> str:
    """The forwards, one a line."""
    if not forwards:
        return "no port is forwarded; %flame forward PORT does it"
    lines = []
    for one in forwards:
        count = one.connections
        state = "" if count is None else f", {count} connection{'' if count == 1 else 's'}"
        trouble = f"; last {one.trouble}" if one.trouble else ""
        where = "" if one.reverse or isinstance(one.listen, str) else f"  {one.url}"
        lines.append(f"{one}{where}{state}{trouble}")
    if not forwards.is_up:
        lines.append("the link is down; they go on when it is back")
    return plain_text("\n".join(lines))


def stop(forwards: Forwards | None, which: str) -> str:
    """End one, or ``all``; returns what was done, in words. Raises FlameError."""
    if forwards is None or not len(forwards):
        raise FlameError("no port is forwarded")
    chosen = list(forwards) if which == "all" else [forwards.find(which)]
    for one in chosen:
        one.close()
    return plain_text("\n".join(f"ended: {shown(one.listen)}" for one in chosen))
