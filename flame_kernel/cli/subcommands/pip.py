"""``jupyter flame pip``: sends packages through the link; or with ``--there`` runs the far side's own pip."""

from __future__ import annotations

import argparse
import sys
from typing import ClassVar

from ...connect.target import LIGHT
from ...packages.commands import Words, carry_out, on_each, read
from ...terminal import plain_text
from ..parser import Parser
from .run import SEVERAL, Running

# It reads pip's output and prints it: in a server's process, subprocesses do not have the session's stdout.
_SCRIPT = """
import subprocess, sys

if not sys.executable or getattr(sys, "frozen", False):
    sys.exit("the server cannot run its Python (a frozen app, or sys.executable is empty), and so not pip")
done = subprocess.Popen(
    [sys.executable, "-m", "pip"] + sys.argv[1:],
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
)
try:
    for line in done.stdout:
        print(line, end="", flush=True)
finally:
    if done.poll() is None and sys.exc_info()[0] is not None:
        done.terminate()
    done.wait()
sys.exit(done.returncode)
"""


class Pip(Running):
    """Installs packages on a server."""

    title = "pip"
    several = SEVERAL
    takes_all: ClassVar[bool] = True
    about = """
        Install packages on a server without internet: this machine's pip, with its index and proxies, chooses and
        downloads wheels for the server, and they are sent there into a folder of their own. On sys.path it comes after
        the server's own packages (--first: before them). list shows what was sent, uninstall removes it (--all: with
        the folder).

        With --there, and for all other words, the server's own pip runs there as `python -m pip WORDS`, and downloads
        there. The exit code is pip's; on several servers it is 0, 1 if it failed on some, and 4 if none was reached.
        """
    typed = """
        jupyter flame pip -t gpu-box install "dask[distributed]" -r requirements.txt
        jupyter flame pip -t gpu-box uninstall --all
        jupyter flame pip --there -t web install --user numpy
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument(
            "words", nargs=argparse.REMAINDER, metavar="WORD", help="for pip: install numpy, list, -- --version"
        )
        parser.add_argument("--there", action="store_true", help="run pip of the server itself")
        parser.add_argument("--json", action="store_true", help="with several servers: a line of JSON each")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        asked = read([*(["--there"] if options.there else []), *options.words])
        self.writes = options.words[:1] != ["list"]
        if not asked.there:
            self.refuse_json(options)
            return self._send(asked)
        words = list(asked.rest)
        if self.is_group:
            return self.on_each(_SCRIPT, options.json, "script", "pip", words, **self.plain_shell)
        self.refuse_json(options)
        with self.remote(**self.plain_shell) as remote:
            return self.program(remote).execute(_SCRIPT, "script", "pip", words)

    def _send(self, asked: Words) -> int:
        """Send packages through the link, to one server after the other; returns the exit code."""
        light = {} if self.options.session else LIGHT
        if not self.is_group:
            with self.remote(**light) as remote:
                print(carry_out(remote.session, asked, self.confirm, _say))
            return 0
        from .. import on_group

        with on_group.opened(self, **light) as chosen:
            failed = on_each(chosen.labels, lambda label: chosen[label].session, asked, self.confirm, _say, print)
            for sentence in failed:
                print(sentence, file=sys.stderr)
            return on_group.NONE_REACHED if len(failed) == len(chosen) else int(bool(failed))


def _say(text: str) -> None:
    print(plain_text(text), file=sys.stderr)
