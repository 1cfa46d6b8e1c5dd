"""``jupyter flame mcp``: sessions for language-model agents, over stdin and stdout; mcp/ has the tools."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any, ClassVar

from ...connect.target import Target, load_target
from ...errors import FlameError
from ..connecting import Connecting, ending
from ..parser import Parser


class Mcp(Connecting):
    """Serves the Model Context Protocol on stdin and stdout."""

    title = "mcp"
    about = """
        Serve the Model Context Protocol on stdin and stdout: tools with which a language-model agent runs code on a
        server (execute, output, interrupt, where, top, inspect, complete, variables, files). A long cell runs on after
        its tool has answered, also while the link is down. What the server sends is marked as data.

        The agent can do whatever code there can do, so give it only servers on which you would let its user run code.
        Rails of the target (read_only, window, log) apply; they guard against slips, not against bad intent. With
        --session, variables and a running cell outlive this program.
        """
    typed = """
        jupyter flame mcp -t furnace --session agent
        jupyter flame mcp -t web1 --allow "web*" --read-only
        claude mcp add furnace -- jupyter flame mcp -t furnace
        """
    session: ClassVar[str] = "the session of this name, made if there is none; it is left alive at the end"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument(
            "--allow",
            action="append",
            default=[],
            metavar="PATTERN",
            help="saved targets that the agent may reach too, such as web*; repeatable",
        )
        parser.add_argument(
            "--read-only", action="store_true", help="refuse code that plainly writes, and offer no tool that does"
        )
        super().arguments(parser)

    def _ask(self, prompt: str, password: bool) -> str | None:
        """Nobody can be asked: stdin is the protocol's."""
        return None

    def run(self, options: argparse.Namespace) -> int | None:
        if importlib.util.find_spec("mcp") is None:
            raise FlameError("the package mcp is missing: pip install 'remote-flame[mcp]'")
        from ...mcp.servers import Servers  # with the SDK, it takes a second to load
        from ...mcp.tools import build

        first = self.target()

        def load(name: str | None) -> Target:
            if name is None:
                return first
            given: dict[str, Any] = {"session": options.session} if options.session else {}
            return load_target(name, config_dir=self.folder, overrides=given, ask=self._ask)

        names = list(self.targets().tables)
        label = str(first.name or first.location or "local")
        servers = Servers(load, lambda: names, options.allow, options.read_only, label)
        try:
            with ending():
                build(servers, options.read_only).run("stdio")
        finally:
            servers.close()
        return None
