"""``jupyter flame put``, ``get`` and ``sync``: files and folders to a server and back."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

from ..commands.far_path import get_paths, put_paths, sync_paths
from ..files import transfer
from ..files.sync import Wishes, sync_down, sync_up
from ..remote.remote import Remote
from ..terminal import plain_text
from .connecting import Connecting
from .parser import Parser


class Files(Connecting):
    """A command that copies."""

    alone: ClassVar[bool] = False
    several: ClassVar[str] = "; or several: a group, web1,web2, pi-*, all"
    session: ClassVar[str] = "relative paths there are of the folder in which this session's cells are"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, and no word at the end")
        super().arguments(parser)

    @contextlib.contextmanager
    def files(self) -> Iterator[Remote]:
        """A connection for files: without a session that is named it starts no process there, and no IPython."""
        light: dict[str, Any] = {} if self.options.session else {"place": "process", "shell": "mini"}
        with self.remote(**light) as remote:
            yield remote

    def is_target(self, name: str) -> bool:
        """Whether a name before a colon is that of a server."""
        file = self.targets()
        return name in file.tables or name in file.groups or name == self.options.target

    @property
    def progress(self) -> bool | None:
        """Whether to show a bar; None: where somebody sees it."""
        return False if self.options.quiet else None

    def say(self, result: object) -> None:
        """What came of it."""
        if not self.options.quiet:
            print(plain_text(str(result)))


class Put(Files):
    """From here to there."""

    title = "put"
    about = """
        Copy files and folders to the server, as cp -r does: mode and time are kept, what is the same there is left
        alone, a file goes on where an earlier try was cut, contents are checked, and put in place whole.

        Sources may have ~ and *; a relative DEST is of the folder that the server is in, ~ is the home there. It may be
        written TARGET:PATH, in place of -t; ./a:b is a file with a colon in its name.
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
            from . import on_group

            sources = options.sources
            return on_group.files(self, lambda on: on.put(*sources, dst=destination), quiet=options.quiet)
        with self.files() as remote:
            self.say(transfer.put(remote.session, options.sources, destination, progress=self.progress))
        return None


class Get(Files):
    """From there to here."""

    title = "get"
    about = """
        Copy files and folders from the server, as cp -r does: time is kept, and the mode as far as the umask allows.
        What is the same here is left alone, a file goes on where an earlier try was cut, contents are checked, and put
        in place whole. Nothing outside of DEST is touched, whatever the server says.

        Sources may have ~ and * (in quotes, or the shell here takes them); without DEST it is the present folder. They
        may be written TARGET:PATH, in place of -t; ./a:b is a file with a colon in its name.
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
            from . import on_group

            return on_group.files(self, lambda on: on.get(*sources, dst=destination), quiet=options.quiet)
        with self.files() as remote:
            self.say(transfer.get(remote.session, sources, destination, progress=self.progress))
        return None


class Sync(Files):
    """A folder like another one."""

    title = "sync"
    about = """
        Make a folder on the server like one here, or the other way round: only what changed is copied, as rsync -a.

        The side of the server has a colon: TARGET:PATH with a target's name, or :PATH with -t (or the default target).
        A SOURCE with a / at its end stands for what is in it; without, for the folder itself, which comes into DEST.
        What has the same size, mode and time is taken for the same; --checksum compares contents.
        """
    typed = """
        jupyter flame sync src/ gpu-box:project/src --delete --exclude __pycache__
        jupyter flame sync gpu-box:results ./ --dry-run
        jupyter flame sync -t ssh://me@lab-pc/9999 :/data/run7/ run7
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("source", metavar="SOURCE", help="a folder; [TARGET]:PATH for one of the server")
        parser.add_argument("destination", metavar="DEST", help="a folder; [TARGET]:PATH for one of the server")
        parser.add_argument("--delete", action="store_true", help="what is not in SOURCE goes from DEST, at the end")
        parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
        parser.add_argument("-c", "--checksum", action="store_true", help="compare contents, not times")
        parser.add_argument(
            "--exclude",
            action="append",
            default=[],
            metavar="PATTERN",
            help="leave these alone: *.pyc, build/, docs/*.html; repeatable",
        )
        parser.add_argument("-v", "--verbose", action="store_true", help="say what is done, a line each")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        options.target, source, destination = sync_paths(
            options.source, options.destination, self.is_target, options.target
        )
        wishes = Wishes(
            delete=options.delete,
            dry_run=options.dry_run,
            checksum=options.checksum,
            exclude=tuple(options.exclude),
            report=(lambda line: print(plain_text(line))) if options.verbose or options.dry_run else lambda line: None,
        )
        with self.files() as remote:
            session = remote.session
            if source is None:
                result = sync_up(session, options.source, destination or "", wishes, self.progress)
            else:
                result = sync_down(session, source, options.destination, wishes, self.progress)
        self.say(f"would do: {result}" if options.dry_run else result)
        return None
