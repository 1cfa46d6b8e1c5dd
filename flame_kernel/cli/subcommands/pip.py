"""``jupyter flame pip``: pip of the far side's own Python, as ``python -m pip`` is there."""

from __future__ import annotations

import argparse
from typing import ClassVar

from ..parser import Parser
from .run import SEVERAL, Running

# Its output is read here, as a server's process has another stdout than its programs.
_SCRIPT = """
import subprocess, sys

if not sys.executable:
    sys.exit("this server does not know its Python (sys.executable is empty), so pip cannot be run")
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
    """pip, there."""

    title = "pip"
    several = SEVERAL
    takes_all: ClassVar[bool] = True
    about = """
        Run pip of the server's own Python, as `python -m pip WORDS` would there: what it downloads, that machine
        downloads. The exit code is pip's; on several servers, where equal output is shown once, it is 0, 1 where it
        failed somewhere, and 4 where none was reached.
        """
    typed = """
        jupyter flame pip -t gpu-box install --user numpy
        jupyter flame pip -t web list
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument(
            "words", nargs=argparse.REMAINDER, metavar="WORD", help="for pip: install numpy, list, -- --version"
        )
        parser.add_argument("--json", action="store_true", help="of several servers: a line of JSON each")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        words = options.words[1:] if options.words[:1] == ["--"] else options.words
        words = words or ["--help"]
        if self.is_group:
            return self.on_each(_SCRIPT, options.json, "script", "pip", words, **self.plain_shell)
        self.refuse_json(options)
        with self.remote(**self.plain_shell) as remote:
            return self.program(remote).execute(_SCRIPT, "script", "pip", words)
