"""``jupyter flame put``, ``get`` and ``sync``: files and folders to a server and back."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import ClassVar

from ...commands.far_path import get_paths, put_paths, sync_paths
from ...connect.target import LIGHT
from ...errors import CannotConnect
from ...files import transfer
from ...files.sync import SyncOptions, sync_down, sync_up
from ...remote.remote import Remote
from ...terminal import plain_text
from ..connecting import Connecting
from ..parser import Parser


class Files(Connecting):
    """What put, get and sync share."""

    alone: ClassVar[bool] = False
    several: ClassVar[str] = "; or several: a group, web1,web2, pi-*, all"
    session: ClassVar[str] = "relative paths there start in the working folder of this session"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary")
        super().arguments(parser)

    @contextlib.contextmanager
    def files(self) -> Iterator[Remote]:
        """A connection for files. Unless the user names a session, it starts no process and no IPython there."""
        light = {} if self.options.session else LIGHT
        with self.remote(**light) as remote:
            yield remote

    def is_target(self, name: str) -> bool:
        """Whether the name before a colon is a server's."""
        file = self.targets()
        return name in file.tables or name in file.groups or name == self.options.target

    @property
    def progress(self) -> bool | None:
        """Whether to show a progress bar; None: only if somebody sees it."""
        return False if self.options.quiet else None

    def say(self, result: object) -> None:
        """Print the result, unless the user wants quiet."""
        if not self.options.quiet:
            print(plain_text(str(result)))


class Put(Files):
    """Copies from this machine to a server."""

    title = "put"
    writes = True
    about = """
        Copy files and folders to the server, like cp -r: mode and time are kept, files that are the same already are
        skipped, and a copy that was cut resumes. Contents are checked, and a file is replaced only when it is complete.

        Sources may have ~ and *; a relative DEST starts in the server's working folder, and ~ is the home there. In
        place of -t you can write TARGET:PATH; ./a:b is a file with a colon in its name.
        """
    typed = """
        jupyter flame put model.bin data/ gpu-box:/tmp/
        jupyter flame put -t gpu-box "results/*.csv" ~/results/
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("sources", nargs="+", metavar="SOURCE", help="files and folders here")
        parser.add_argument("destination", metavar="DEST", help="a file or a folder there")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        options.target, destination = put_paths(options.sources, options.destination, self.is_target, options.target)
        if self.is_group:
            from .. import on_group

            sources = options.sources
            return on_group.files(self, lambda on: on.put(*sources, dst=destination), quiet=options.quiet)
        try:
            with self.files() as remote:
                self.say(transfer.put(remote.session, options.sources, destination, progress=self.progress))
        except CannotConnect as e:
            with self.old_python(e) as old:
                for source in options.sources:
                    self.say(f"{source}: {old.put(source, destination)} bytes")
        return None


class Get(Files):
    """Copies from a server to this machine."""

    title = "get"
    about = """
        Copy files and folders from the server, like cp -r: time is kept, and the mode as far as the umask allows.
        Files that are the same already are skipped, and a copy that was cut resumes. Contents are checked, and a file
        is replaced only when it is complete. Nothing outside of DEST is written, whatever the server says.

        Sources may have ~ and * (in quotes, or the local shell expands them); without DEST it is the current folder.
        In place of -t you can write TARGET:PATH; ./a:b is a file with a colon in its name.
        """
    typed = """
        jupyter flame get gpu-box:/var/log/syslog .
        jupyter flame get -t gpu-box "~/results/*.csv" results/
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("paths", nargs="+", metavar="SOURCE", help="files and folders there; the last may be DEST")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        *paths, destination = options.paths if len(options.paths) > 1 else (*options.paths, ".")
        options.target, sources = get_paths(paths, destination, self.is_target, options.target)
        if self.is_group:
            from .. import on_group

            return on_group.files(self, lambda on: on.get(*sources, dst=destination), quiet=options.quiet)
        try:
            with self.files() as remote:
                self.say(transfer.get(remote.session, sources, destination, progress=self.progress))
        except CannotConnect as e:
            with self.old_python(e) as old:
                for source in sources:
                    self.say(f"{source}: {old.get(source, destination)} bytes")
        return None


class Sync(Files):
    """Makes a folder like another one."""

    title = "sync"
    about = """
        Make a folder on the server like one here, or the other way round: only what changed is copied, as rsync -a.

        The folder on the server has a colon: TARGET:PATH with a target's name, or :PATH with -t (or the default
        target). From several servers each has a folder of its own, DEST/HOST/. With a / at its end SOURCE means what is
        in the folder; without it, the folder itself, which is put into DEST. Files of the same size, mode and time are
        taken to be the same; --checksum compares contents.
        """
    typed = """
        jupyter flame sync src/ gpu-box:project/src --delete --exclude __pycache__
        jupyter flame sync gpu-box:results ./ --dry-run
        jupyter flame sync src/ web:project/src
        jupyter flame sync -t ssh://me@lab-pc/9999 :/data/run7/ run7
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("source", metavar="SOURCE", help="a folder; [TARGET]:PATH for one of the server")
        parser.add_argument("destination", metavar="DEST", help="a folder; [TARGET]:PATH for one of the server")
        parser.add_argument("--delete", action="store_true", help="at the end, delete from DEST what is not in SOURCE")
        parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
        parser.add_argument("-c", "--checksum", action="store_true", help="compare contents, not times")
        parser.add_argument(
            "--exclude",
            action="append",
            default=[],
            metavar="PATTERN",
            help="leave these alone: *.pyc, build/, docs/*.html; repeatable",
        )
        parser.add_argument("-v", "--verbose", action="store_true", help="print a line for each thing that is done")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        options.target, source, destination = sync_paths(
            options.source, options.destination, self.is_target, options.target
        )
        self.writes = source is None and not options.dry_run
        if self.is_group:
            return self._on_group(options, source, destination)
        sync_options = SyncOptions(
            delete=options.delete,
            dry_run=options.dry_run,
            checksum=options.checksum,
            exclude=tuple(options.exclude),
            report=(lambda line: print(plain_text(line))) if options.verbose or options.dry_run else lambda line: None,
        )
        with self.files() as remote:
            session = remote.session
            if source is None:
                result = sync_up(session, options.source, destination or "", sync_options, self.progress)
            else:
                result = sync_down(session, source, options.destination, sync_options, self.progress)
        self.say(f"would do: {result}" if options.dry_run else result)
        return None

    def _on_group(self, options: argparse.Namespace, source: str | None, destination: str | None) -> int:
        from .. import on_group

        told: dict[str, list[str]] = {}
        sync_options = {
            "delete": options.delete,
            "dry_run": options.dry_run,
            "checksum": options.checksum,
            "exclude": options.exclude,
            "report": lambda host, line: told.setdefault(host, []).append(line),
        }
        here, there = (options.source, destination) if source is None else (source, options.destination)
        return on_group.files(
            self,
            lambda on: on.sync(here, there or "", down=source is not None, **sync_options),
            quiet=options.quiet,
            told=told if options.verbose or options.dry_run else {},
            before="would do: " if options.dry_run else "",
        )
