"""``jupyter flame certs``: makes a private CA, and certificates for TLS."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import TargetError
from ...serve.certs import DAYS, Authority, fingerprint
from ..command import Command
from ..parser import Parser


class Certs(Command):
    """Makes a private CA, and certificates signed by it."""

    title = "certs"
    about = """
        Make a private CA in a folder, and certificates for a server and its clients, so that TLS proves both sides.

        Each run adds certificates to the CA, if there is one already. The server gets server.pem and ca.pem, a client
        NAME.pem and ca.pem; ca.key stays in the folder, which is of mode 0700. Anyone with a certificate of this CA
        is let in: treat certificates as keys.
        """
    typed = """
        jupyter flame certs ~/flame-certs --host lab.example --host 10.0.0.7 --client me
        jupyter flame certs ~/flame-certs --client colleague
        jupyter flame certs ~/flame-certs --host lab.example --replace
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the CA is, or is made")
        parser.add_argument(
            "--host", action="append", default=[], help="the server's name or address, as clients write it; repeatable"
        )
        parser.add_argument("--client", action="append", default=[], metavar="NAME", help="a client; repeatable")
        parser.add_argument("--days", type=int, default=DAYS, help="how long certificates are valid (%(default)s)")
        parser.add_argument("--replace", action="store_true", help="replace those that exist")

    def run(self, options: argparse.Namespace) -> int | None:
        if not options.host and not options.client:
            raise TargetError("nothing to certify; name the server's --host, or a --client")
        if not 1 <= options.days <= 36500:
            raise TargetError(f"{options.days} is not a number of days from 1 to 36500")
        authority = Authority(options.folder.expanduser().absolute())
        print(f"CA                   {authority.certificate}")
        if options.host:
            path = authority.server(options.host, replace=options.replace, days=options.days)
            print(f"server               {path}")
            print(f"  for                {', '.join(options.host)}")
            print(f"  SHA-256            {fingerprint(path)}")
        for name in options.client:
            print(f"client               {authority.client(name, replace=options.replace, days=options.days)}")
        if options.host:
            folder = authority.folder
            print(f"\nnext: jupyter flame serve --host 0.0.0.0 --port 9999 --tls {folder} --key-file FILE")
        return None
