"""The commands for more than cells and files: forwarded ports, packages, hot code, and a Dask cluster."""

from __future__ import annotations

from .command import ANY, MAYBE, ON_CONNECTION, SOME, Argument, Command
from .options import KEY_FILE, MAGICS, Option

_STOP = Option(("--stop",), "end one, by its port or path of either end; all: every one", "WHICH")

# How scheduler, workers and client reach each other: see `cluster/network.py`.
NETWORKS = ("auto", "direct", "link")
# The options of a cluster, also for `jupyter flame dask`.
CLUSTER: tuple[Option, ...] = (
    Option(("--workers",), "how many workers (default: one for each host)", "N", kind=int),
    Option(("--threads",), "threads of each worker (default: its share of the host's processors)", "N", kind=int),
    Option(("--memory",), "memory of each worker, as dask writes it: 4GiB (default: its share)", "SIZE"),
    Option(("--network",), "direct: hosts connect to each other; link: all goes through Flame (auto)", "HOW", NETWORKS),
    Option(("--scheduler",), "where the scheduler runs: here, first, or a host's name (here)", "WHERE"),
    Option(("--install",), "send dask to hosts that have none"),
)

REACHING: tuple[Command, ...] = (
    Command(
        "forward",
        "reach a port of the far side here, or with --reverse one of this side there",
        (
            Argument(
                "ports", "PORT", "the port, a unix socket's path, or as ssh -L has it: 8080:6006, 8080:host:80", ANY
            ),
        ),
        (
            Option(("--local",), "the port here, or the path of a unix socket (default: the same, or a free one)", "L"),
            Option(("--host",), "connect to this host instead of localhost, as the other side knows it", "HOST"),
            Option(("-R", "--reverse"), "listen there; what connects there reaches this side"),
            Option(("--socks",), "a SOCKS5 proxy at this port: a browser then sees the far network", "PORT"),
            Option(("--unix",), "listen here on a unix socket, which is for you alone", "PATH", tab=("here",)),
            Option(("--bind",), "listen on this interface, not on loopback; * for all", "ADDRESS"),
            Option(("--open",), "open it in the browser"),
            _STOP,
            ON_CONNECTION,
        ),
        more="It shows a link to click. Connections survive an outage, and end with the session. "
        "It works while a cell runs.",
        examples=(
            "%flame forward 6006",
            "%flame forward 8080:db.internal:80 --open",
            "%flame forward 5432 --reverse",
            "%flame forward --stop 6006",
        ),
        passes=True,
        expands=True,
    ),
    Command(
        "forwards",
        "list the forwarded ports, or end some",
        (),
        (_STOP, ON_CONNECTION),
        examples=("%flame forwards", "%flame forwards --stop all"),
        passes=True,
    ),
    Command(
        "pip",
        "install packages there, fetched here and sent: for hosts without internet",
        (Argument("code", "WORD", "install NAME, list, or uninstall NAME, as behind pip", SOME),),
        (
            Option(
                ("-t", "--target"),
                "the connection's name (default: the current one), or a group",
                "TARGET",
                tab=("connection", "target"),
                faces=(MAGICS,),
            ),
        ),
        more="This machine's pip chooses and downloads wheels for the far side's Python and platform. They go into a "
        "folder of ours there. On sys.path it comes after the host's own packages; with --first, before them. What the "
        "host has is left as it is if it will do, unless -U is given. You are asked before the first write (-y: yes). "
        "uninstall --all removes all. --there runs the far side's own pip.",
        examples=(
            "%flame pip install rich dask[distributed]",
            "%flame pip install -r requirements.txt --first",
            "%flame pip list",
            "%flame pip uninstall --all",
        ),
        code=True,
    ),
    Command(
        "hot",
        "let imports there find the modules of a folder here",
        (
            Argument(
                "folders", "FOLDER", "a folder to import from, a package, or NAME.py; none: list what is served", ANY
            ),
        ),
        (
            Option(("--reload",), "before each cell, reload edited modules; instances get the new code too"),
            Option(("--off",), "stop serving, and forget these modules there"),
            ON_CONNECTION,
        ),
        more="Modules and data files of packages are sent when they are imported or read, also while a cell runs, and "
        "stay in memory there. Hidden files, links out of the folder and what looks like a secret are left out. In "
        'targets.toml it is hot = ["src"], and hot_reload = true. It ends with the session.',
        examples=("%flame hot src --reload", "%flame hot", "%flame hot --off"),
        expands=True,
    ),
    Command(
        "hotfix",
        "replace the code of a function of the running program, or put it back",
        (Argument("name", "NAME", "module.function or module.Class.method; none: list the fixes", MAYBE),),
        (Option(("--undo",), "put the old code back: of NAME, or of all that this session has fixed"), ON_CONNECTION),
        more="%flame hotfix NAME writes a cell (%%flame hotfix NAME) with the function's code: edit it and run it. "
        "The function stays the same object, so everything that calls it runs the new code from the next call on. Its "
        "signature, decorators and closure must stay the same. The program's own log notes who did it. Fixes end with "
        "the session that made them; %flame detach keeps them.",
        examples=("%flame hotfix app.handlers.slow", "%flame hotfix", "%flame hotfix --undo"),
    ),
    Command(
        "dask",
        "make a Dask cluster of several hosts, and its client",
        (),
        (
            Option(
                ("-t", "--target"),
                "the hosts: a group, web1,web2, furnace*4 (default: where cells run)",
                "TARGETS",
                tab=("connection", "target"),
            ),
            *CLUSTER,
            Option(("--as",), "the client's name (client)", "NAME"),
            KEY_FILE,
            Option(("--stop",), "end the cluster"),
        ),
        more="Workers are dask's own. They survive an outage, and a host that was lost gets its worker again. Run it "
        "again with --workers N to change their number. You trust the hosts of your cluster: dask opens their pickles.",
        examples=("%flame dask -t web --workers 8", "%flame dask -t furnace*2 --install", "%flame dask --stop"),
    ),
)
