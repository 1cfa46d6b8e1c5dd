"""``jupyter flame serve``: starts a stock Flame server; serve/standalone.py does the work."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from pathlib import Path

from jupyter_core.paths import jupyter_runtime_dir

from ...connect.units import size_in_words
from ...errors import TargetError
from ...serve import standalone
from ...serve.plan import MAX_MESSAGE, THREADS, Plan, from_environ
from ..command import Command
from ..parser import Parser


class Serve(Command):
    """Starts a stock Flame server with safe settings; this process becomes the server."""

    title = "serve"
    about = f"""
        Start a stock Pyro4 Flame server that is safe to start, and say how to connect to it.

        It listens on this machine only, on TCP or (--unix) on a socket in a private folder. Clients need its key,
        which is made afresh (256 bits, in a file of mode 0600 that ends with the server) or kept in --key-file. From
        other machines they come by ssh, without any option here; or by TLS, with --host and --tls.

        Whoever gets in can do all that you can: guard the key file as a private key of ssh.
        Up to {THREADS} connections, two for each session; messages of up to {size_in_words(MAX_MESSAGE)}. Pyro's own
        PYRO_THREADPOOL_SIZE, PYRO_MAX_MESSAGE_SIZE, PYRO_COMMTIMEOUT, PYRO_SERVERTYPE, PYRO_NATHOST and PYRO_NATPORT
        hold; what would change who gets in does not.
        """
    typed = """
        jupyter flame serve
        jupyter flame serve --port 9999 --key-file ~/.ssh/flame.key
        jupyter flame serve --unix
        jupyter flame certs ~/flame-certs --host lab.example --client me
        jupyter flame serve --host 0.0.0.0 --port 9999 --tls ~/flame-certs --key-file ~/.ssh/flame.key
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on; with --tls any (%(default)s)")
        parser.add_argument("--port", type=int, default=0, help="port to listen on (one that is free)")
        parser.add_argument(
            "--unix", nargs="?", const="", metavar="PATH", help="listen on a unix socket, in a folder of mode 0700"
        )
        parser.add_argument("--key-file", type=Path, metavar="FILE", help="the key; made there if there is none")
        parser.add_argument("--tls", type=Path, metavar="FOLDER", help="speak TLS: certificates of jupyter flame certs")
        parser.add_argument(
            "--anyone", action="store_true", help="with --tls: clients need the key, but no certificate of that CA"
        )
        parser.add_argument(
            "--harden",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="keep clients without the key from stopping it, or filling its memory (on)",
        )
        parser.add_argument(
            "--python", default=sys.executable, metavar="FILE", help="interpreter to run it, which has Pyro4 (this one)"
        )

    def run(self, options: argparse.Namespace) -> int | None:
        unix = None
        if options.unix is not None:
            folder = Path(jupyter_runtime_dir())
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            unix = Path(options.unix).expanduser() if options.unix else folder / "flame" / "s"
        python = shutil.which(options.python)
        if python is None:
            raise TargetError(f"there is no interpreter {options.python}; name one that has Pyro4")
        more, ignored = from_environ(os.environ)
        for name in ignored:
            print(f"Warning: {name} is not used here; --help has the options for it", file=sys.stderr)
        plan = Plan(
            host=options.host,
            port=options.port,
            unix=unix.absolute() if unix else None,
            tls=options.tls.expanduser().absolute() if options.tls else None,
            anyone=options.anyone,
            harden=options.harden,
            more=more,
        )
        with contextlib.suppress(TargetError):  # this notes which variables hold keys: the server must not get them
            self.targets()
        key_file = options.key_file.expanduser().absolute() if options.key_file else None
        standalone.run(plan, key_file, python)
