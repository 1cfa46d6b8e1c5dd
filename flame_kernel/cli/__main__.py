# PYTHON_ARGCOMPLETE_OK
"""The console script of ``jupyter flame``. Its help appears at once; everything else is loaded when it is needed."""

from __future__ import annotations

import io
import os
import signal
import sys

from .. import __version__
from ..agent.wire.launch import leave_folder
from .index import ABOUT, COMMANDS, asks, overview

# The exit status if nobody reads our output: 128 + SIGPIPE, as of a program that this signal ends.
NO_READER = 141


def main() -> None:
    """The console script ``jupyter-flame``, which is what ``jupyter flame`` runs."""
    _have_streams()
    words = sys.argv[1:]
    if "_ARGCOMPLETE" in os.environ:  # Tab was pressed: answer that and nothing else, whatever the words are
        from .completion import offer

        offer()
        return
    try:
        if asks(words):
            print(overview("", ABOUT, COMMANDS))
        elif words == ["--version"]:
            print(__version__)
        else:
            from .application import FlameApp

            FlameApp.launch_instance()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has closed the pipe: `… | head`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            if not os.isatty(number):
                os.dup2(nowhere, number)
        sys.exit(NO_READER)
    except KeyboardInterrupt:  # while the command was being loaded; once it runs it has its own way to end
        sys.exit(128 + signal.SIGINT)


def _have_streams() -> None:
    """Open standard streams that were closed (`>&-`) on the null device; otherwise a socket of ours would get their
    numbers. Characters that the encoding of stdout does not have, as on Windows, are escaped there."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115, never closed
    if isinstance(sys.stdout, io.TextIOWrapper) and (
        sys.stdout.errors == "strict" or (sys.stdout.errors == "surrogateescape" and sys.stdout.encoding != "utf-8")
    ):
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    leave_folder()
    main()
