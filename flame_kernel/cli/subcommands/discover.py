"""``jupyter flame discover``: lists the Flame servers that are registered in Pyro's name server."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...connect.keys import read_key
from ...connect.location import Location, SshHost, name_server
from ...connect.name_server import Entry, answers, heard, registered
from ...connect.target import Target, usual_name_server
from ...errors import FlameError
from ...remote.program import DONE, FAILED
from ...terminal import plain_text
from ..command import Command
from ..output import show_json, show_table
from ..parser import Parser

# How many servers are tried at a time, and within how many seconds each must accept a connection.
AT_ONCE, PATIENCE = 16, 1.5


class Discover(Command):
    """Lists Flame servers by name."""

    title = "discover"
    about = """
        List the Flame servers that are registered in a Pyro name server (pyro4-ns). ns:NAME then stands for one of
        them wherever a location is asked for: %flame connect ns:NAME, flame.connect("ns:NAME"), targets.toml.

        An app registers its own server with two lines, a stock one is registered by hand:
            uri = Pyro4.utils.flame.start(daemon); Pyro4.locateNS().register("lab.furnace", uri)
            pyro4-nsc register lab.furnace PYRO:Pyro.Flame@lab.example:9999

        The name server is that of --ns, else of FLAME_NS, PYRO_NS_HOST and PYRO_NS_PORT, else localhost:9090. Nothing
        is broadcast unless you say so. A name server only gives a hint: the connection needs the server's key, TLS or
        ssh all the same.
        """
    typed = """
        jupyter flame discover
        jupyter flame discover --ns lab.example --ns-key-file ~/.ssh/names.key
        jupyter flame discover --ns localhost:9090 --ssh me@lab.example
        jupyter flame discover --json
        """

    def arguments(self, parser: Parser) -> None:
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--ns", metavar="HOST[:PORT]", help="the name server")
        where.add_argument("--broadcast", action="store_true", help="find name servers on this network by a broadcast")
        parser.add_argument("--ns-key-file", metavar="FILE", help="the name server's key, in a file of mode 0600")
        parser.add_argument("--ssh", metavar="USER@HOST", help="reach the name server from that machine, by ssh")
        parser.add_argument("--all", action="store_true", help="also list objects that are not Flame servers")
        parser.add_argument("--json", action="store_true", help="for programs: a list of objects")

    def run(self, options: argparse.Namespace) -> int | None:
        key_file = options.ns_key_file or os.environ.get("FLAME_NS_KEY_FILE")
        key = read_key(Path(key_file).expanduser())[0] if key_file else None
        servers = _servers(options)
        rows = _asked(servers, Target(ns_key=key), options.all)
        if options.json:
            show_json(rows)
        elif rows:
            cells = [(row["location"] or row["name"], row["place"], _state(row)) for row in rows]
            show_table(("use it as", "it is at", ""), cells)
        else:
            print(_nothing(servers))
        return DONE if servers else FAILED


def _asked(servers: list[Location], settings: Target, everything: bool) -> list[dict[str, Any]]:
    """What the name servers know. Failures of some are printed on stderr; if all fail, the first error is raised."""
    rows: list[dict[str, Any]] = []
    failures: list[FlameError] = []
    for server in servers:
        try:
            listed = registered(server, settings)
        except FlameError as error:
            failures.append(error)
            continue
        rows += _rows(server, [entry for entry in listed if entry.flame or everything])
    if failures and len(failures) == len(servers):
        raise failures[0]
    for failure in failures:
        print(f"jupyter flame discover: {plain_text(str(failure))}", file=sys.stderr)
    return rows


def _servers(options: argparse.Namespace) -> list[Location]:
    if options.broadcast:
        return heard()
    server = name_server(options.ns) if options.ns else usual_name_server(os.environ if not options.ssh else {})
    return [server.behind(SshHost.parse(options.ssh)) if options.ssh else server]


def _rows(server: Location, entries: list[Entry]) -> list[dict[str, Any]]:
    """What is shown of each entry. All servers are tried at the same time, to find out which answer."""
    usual = server == usual_name_server(os.environ)
    tried = [entry.place for entry in entries if entry.place and entry.flame and not entry.elsewhere]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        there = {} if server.ssh else dict(zip(tried, pool.map(lambda one: answers(one, PATIENCE), tried), strict=True))
    rows = []
    for entry in entries:
        named = dataclasses.replace(server, name=entry.name)
        location = f"ns:{entry.name}" if usual else str(named)
        rows.append(
            {
                "name": entry.name,
                "location": location if entry.flame else None,
                "place": str(entry.place) if entry.place else entry.uri,
                "flame": entry.flame,
                "answers": None if entry.place is None else there.get(entry.place),
                "elsewhere": entry.elsewhere,
                "name_server": str(server),
            }
        )
    return rows


def _state(row: dict[str, Any]) -> str:
    if not row["flame"]:
        return "no Flame server"
    if row["elsewhere"]:
        return "an address of that machine only: register another one, or go there by ssh"
    return {True: "answers", False: "no answer", None: ""}[row["answers"]]


def _nothing(servers: list[Location]) -> str:
    if not servers:
        return "no name server answers on this network; one that listens on loopback never does: --ns HOST"
    known = ", ".join(map(str, servers))
    return f"no Flame server is registered at {known}; jupyter flame discover --help tells how one is"
