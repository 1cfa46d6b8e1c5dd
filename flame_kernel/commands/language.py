"""The table of ``%flame`` commands: what each takes, what it is for, and in which of the two faces it makes sense.

Both faces read a line by it (``parsing.py``); help and the reference page's table are made from it (``help.py``), and
so is what Tab offers (``tab.py``).
A face is where a line stands: in a cell of the Remote Flame kernel, where all cells run on the far side, or in any
other notebook with ``%load_ext flame``, whose cells run here.
"""

from __future__ import annotations

from dataclasses import replace

from .command import ANY, MAYBE, ON_CONNECTION, SOME, Argument, Command
from .looking import LOOKING
from .options import CONNECTION, KERNEL, MAGICS, Option
from .reaching import REACHING

ON_SERVER = Option(
    ("-t", "--target"),
    "another server: a target's name, or where it is (default: the current one)",
    "TARGET",
    tab=("connection", "target"),
)
WHERE = Argument(
    "where",
    "WHERE",
    "host:port, ssh://user@host/port, ./u:socket, ns:NAME (of Pyro's name server), or the name of a target or group",
    MAYBE,
    tab=("connection", "target"),
)
_COPIES = (
    "Copies like cp -r: mode and time are kept, files that are the same already are skipped, and a copy that was cut "
    "resumes. Names may have ~ and *. "
)
_COLON = "For a file on another server write TARGET:PATH; ./a:b is a file with a colon in its name."

# Options of a cell on several far sides: those of ipyparallel's %%px, and a few of our own.
OUTPUTS = ("type", "engine", "order")
# How its output is shown.
OUTPUT_OPTIONS: tuple[Option, ...] = (
    Option(("--fold",), "show equal output once (the default for more than two hosts)", group="outputs"),
    Option(("--no-diff",), "show output that differs in full, not as a difference"),
    Option(("--mask",), "output that differs only in numbers and times counts as equal"),
    Option(("--group-outputs",), "each host's output by itself, in this order", "HOW", OUTPUTS, group="outputs"),
    Option(("-e",), "--group-outputs engine: host by host", group="outputs"),
    Option(("-r",), "--group-outputs order: the displays of all hosts in turn", group="outputs"),
)
# How it runs, and what is said meanwhile.
FOLLOWING_OPTIONS: tuple[Option, ...] = (
    Option(("--stream",), "show text as it comes, the host before each line", group="stream"),
    Option(("--no-stream",), "show text when all are done", group="stream"),
    Option(("--progress-after",), "show who is done after S seconds (2; 0 at once, -1 never)", "S", kind=float),
    Option(("--signal-on-interrupt",), "what Stop sends to the children there (SIGINT; 0: nothing)", "SIGNAL"),
    Option(("--verbose",), "say where the cell runs", group="verbose"),
    Option(("--no-verbose",), "do not say it (the default)", group="verbose"),
)
_TARGETS = Option(
    ("-t", "--targets", "--target"),
    "the connection's name (default: the current one); or several: a group, web1,web2, web[1:3], all",
    "TARGET",
    tab=("connection", "target"),
)
_WAITING: tuple[Option, ...] = (
    Option(("-a", "--noblock", "--bg"), "do not wait for it", group="wait", faces=(MAGICS,)),
    Option(("-b", "--block"), "wait for it", group="wait", faces=(MAGICS,)),
)
# As px has it: -o is --out, and no --pull.
_OUT = Option(("-o", "--out"), "bind the job here: its output, result, error", "NAME", tab=("name",), faces=(MAGICS,))

COMMANDS: tuple[Command, ...] = (
    # -- where cells run
    Command(
        "connect",
        "run cells on another server",
        (WHERE,),
        (
            Option(("--as",), "a name for it; a variable of that name is bound to it", "NAME", faces=(MAGICS,)),
            *CONNECTION,
        ),
        more="Without WHERE it is the default target, or a local test server. "
        "If the server needs a key and you have named none, you are asked for it.",
        examples=(
            "%flame connect ssh://me@lab-pc/9999",
            "%flame connect lab-pc:9999 --key-file ~/.ssh/lab.key --tls",
            "%flame connect",
        ),
        aliases=("add",),
        moves=True,
        expands=True,
    ),
    Command(
        "use",
        "make another connection the current one",
        (Argument("name", "NAME", "its name, or its host:port", tab=("connection",)),),
        examples=("%flame use pi",),
        instead={KERNEL: "this kernel has one far side at a time; go to another one with %flame connect {rest}"},
        expands=True,
    ),
    Command(
        "status",
        "show where cells run",
        (Argument("name", "NAME", "only this connection", MAYBE, ("connection",), faces=(MAGICS,)),),
        aliases=("info",),
        passes=True,
    ),
    Command(
        "doctor",
        "diagnose the connection to a server, each fault with its cure",
        (WHERE,),
        CONNECTION,
        more="Without WHERE it is the present connection.",
        examples=("%flame doctor", "%flame doctor lab-pc:9999 --tls-ca ca.pem"),
    ),
    Command(
        "disconnect",
        "end a connection, with its session there",
        (Argument("name", "NAME", "its name (default: the current one)", MAYBE, ("connection",), faces=(MAGICS,)),),
        (
            Option(("--all",), "all of them", faces=(MAGICS,)),
            Option(("--keep",), "keep the session running there; attach to it later by its name"),
        ),
        examples=("%flame disconnect --keep",),
        aliases=("delete",),
        moves=True,
        expands=True,
    ),
    # -- sessions
    Command(
        "sessions",
        "list the sessions that live on a server, or end one",
        (),
        (ON_SERVER, Option(("--kill",), "end this session, with all that it runs", "NAME", tab=("session",))),
        examples=("%flame sessions", "%flame sessions --kill nightly"),
        passes=True,
    ),
    Command(
        "attach",
        "take up a session: what was missed is shown, a cell that runs is followed",
        (Argument("name", "NAME", "the session, as %flame sessions shows it", tab=("session",)),),
        (
            Option(("--ask",), "ask the client that has it, and wait", group="how"),
            Option(("--force",), "take over from another client", group="how"),
            Option(("--watch",), "follow its output read-only, until Stop", group="how"),
            ON_CONNECTION,
        ),
        more="The Remote Flame kernel looks on the present server, then where it was before, and at all targets.",
        examples=("%flame attach nightly", "%flame attach nightly --watch"),
        moves=True,
        expands=True,
    ),
    Command(
        "detach",
        "leave the session; it keeps running there",
        (
            Argument(
                "name", "NAME", "the connection (default: the current one)", MAYBE, ("connection",), faces=(MAGICS,)
            ),
        ),
        more="%flame attach takes it up again, from any notebook.",
        moves=True,
        expands=True,
    ),
    Command("allow", "hand the session to the client that asks for it", passes=True),
    Command("refuse", "refuse the client that asks for the session", passes=True),
    Command(
        "replay",
        "show the output of a cell again, from what the server keeps",
        (Argument("count", "N", "the cell's number (default: the last cell)", MAYBE, kind=int),),
        (
            Option(
                ("--missed",),
                "the cells that were still running when the page was last closed",
                group="which",
                faces=(KERNEL,),
            ),
            Option(("--all",), "of all cells that are kept", group="which"),
            ON_CONNECTION,
        ),
        examples=("%flame replay", "%flame replay 7"),
        passes=True,
    ),
    # -- looking in
    *LOOKING,
    Command(
        "audit",
        "list the cells that were noted, where a target has rails",
        more="[targets.NAME.rails] in targets.toml holds back from slips on a production host: confirm, max_hosts, "
        "read_only, window, colour, log. They guard against mistakes, not against intent.",
        examples=("%flame audit",),
        passes=True,
    ),
    # -- files
    Command(
        "put",
        "copy files and folders to the server",
        (
            Argument("source", "SRC", "files and folders of this machine", SOME, ("here",)),
            Argument(
                "destination", "DST", "a folder there (ends with /), or the file's new name", tab=("there", "here")
            ),
        ),
        (ON_SERVER,),
        more=_COPIES + _COLON,
        examples=("%flame put model.bin data/ /tmp/", "%flame put results/*.csv lab:results/"),
        expands=True,
    ),
    Command(
        "get",
        "copy files and folders from the server",
        (
            Argument("source", "SRC", "files and folders there", SOME, ("there",)),
            Argument(
                "destination", "DST", "a folder here, or the file's new name (default: here)", MAYBE, ("there", "here")
            ),
        ),
        (ON_SERVER,),
        more=_COPIES + _COLON,
        examples=("%flame get /var/log/syslog .", "%flame get lab:results/*.csv results/"),
        expands=True,
    ),
    Command(
        "sync",
        "make a folder like one on the other side: only what changed is copied",
        (
            Argument("source", "SRC", "a folder; one of the server is written TARGET:PATH, or :PATH", tab=("either",)),
            Argument("destination", "DST", "likewise", tab=("either",)),
        ),
        (
            Option(("--delete",), "at the end, delete from DST what is not in SRC"),
            Option(("-n", "--dry-run"), "only say what would be done"),
            Option(("-c", "--checksum"), "compare contents, not times"),
            Option(("--exclude",), "leave these alone: *.pyc, build/, docs/*.html; repeatable", "PATTERN", many=True),
            Option(("-v", "--verbose"), "print a line for each thing that is done"),
            ON_SERVER,
        ),
        more="Like rsync -a: with a / at its end SRC means what is in the folder; without it, the folder itself, "
        "which is put into DST. Files of the same size, mode and time are taken to be the same.",
        examples=("%flame sync src/ :project/src --delete", "%flame sync lab:results ./ --dry-run"),
        expands=True,
    ),
    # -- code and names
    Command(
        "eval",
        "show the value of an expression there",
        (Argument("code", "EXPRESSION", "taken as it stands, to the line's end", SOME, ("code",)),),
        (ON_CONNECTION,),
        examples=("%flame eval len(results)", "x = %flame eval results[-1]"),
        instead={KERNEL: "cells run on the far side already; write it as it is: {rest}"},
        code=True,
    ),
    Command(
        "exec",
        "run statements there; a last expression is shown as by a cell",
        (Argument("code", "STATEMENTS", "taken as they stand, to the line's end", SOME, ("code",)),),
        (ON_CONNECTION,),
        examples=("%flame exec import math; math.pi",),
        instead={KERNEL: "cells run on the far side already; write it as it is: {rest}"},
        code=True,
    ),
    Command(
        "run",
        "run a script of this machine there, or a function",
        (
            Argument(
                "code", "FILE", "a script of this machine and its arguments, or a call: f(1, x=2)", SOME, ("script",)
            ),
        ),
        (ON_CONNECTION,),
        more="The script's names are its own. A function is sent as source, with the values that it uses.",
        examples=("%flame run train.py --epochs 3", "%flame run dew_point(21.5, humidity=60)"),
        code=True,
    ),
    Command(
        "push",
        "send variables to the far side",
        (Argument("code", "NAME[=EXPRESSION]", "a variable here, or a name and its value", SOME, ("name",)),),
        (ON_CONNECTION,),
        more="In the Remote Flame kernel this side is that of the %%local cells.",
        examples=("%flame push samples limit=2*3",),
        code=True,
    ),
    Command(
        "pull",
        "fetch variables from the far side",
        (Argument("names", "NAME", "a variable there; it has the same name here", SOME, ("code",)),),
        (ON_CONNECTION,),
        more="In the Remote Flame kernel this side is that of the %%local cells.",
        examples=("%flame pull mean results",),
    ),
    Command(
        "module",
        "bind a module of the far side here",
        (
            Argument("name", "MODULE", "its name there, dotted or not", tab=("module",)),
            Argument("alias", "as NAME", "the name here (default: the last part of the module's)", ANY),
        ),
        (ON_CONNECTION,),
        examples=("%flame module numpy as rnp",),
        instead={KERNEL: "cells run on the far side already; write: import {rest}"},
    ),
    Command(
        "builtin",
        "bind a built-in function of the far side here",
        (
            Argument("name", "BUILTIN", "its name there", tab=("builtin",)),
            Argument("alias", "as NAME", "the name here (default: the same)", ANY),
        ),
        (ON_CONNECTION,),
        examples=("%flame builtin open as ropen",),
        instead={KERNEL: "cells run on the far side already; use its built-in functions as they are"},
    ),
    Command(
        "sendmodule",
        "make a module or package of this machine importable there",
        (
            Argument(
                "module",
                "MODULE",
                "its name, a variable that holds it, a file NAME.py, or a package's folder",
                tab=("here",),
            ),
        ),
        (ON_CONNECTION,),
        examples=("%flame sendmodule furnace.py", "%flame sendmodule mypackage/"),
        expands=True,
    ),
    Command(
        "getmodule",
        "the source of a module of the far side",
        (
            Argument("module", "MODULE", "its name there", tab=("module",)),
            Argument("file", "FILE", "write it to this file of this machine", MAYBE, ("here",)),
        ),
        (ON_CONNECTION,),
        examples=("%flame getmodule textwrap", "%flame getmodule textwrap copy.py"),
        expands=True,
    ),
    *REACHING,
    # -- several far sides
    Command(
        "px",
        "run a line on several far sides at once",
        (
            Argument(
                "code",
                "STATEMENT",
                "the code; or --install: %px, %%px, %autopx, %pxresult and %pxconfig as ipyparallel has them",
                tab=("code",),
            ),
        ),
        (
            Option(
                ("-t", "--targets", "--target"),
                "a group, web1,web2, web[1:3], all (default: the last one, the default group, or where cells run)",
                "TARGETS",
                tab=("target",),
            ),
        ),
        more="As %%flame -t TARGETS with one line. %autoflame TARGETS sends every cell there, until %autoflame.",
        examples=("%flame px -t web import platform; print(platform.node())", "%flame px --install"),
        code=True,
    ),
    Command(
        "result",
        "show the results of the last cell on several far sides",
        (),
        (*OUTPUT_OPTIONS, Option(("-b", "--block"), "wait for it first", faces=(MAGICS,)), _OUT),
        examples=("%flame result", "%flame result -e"),
    ),
    # -- the rest
    Command(
        "jobs",
        "list the cells that run in the background, and those that did",
        (Argument("number", "JOB", "give this job as the line's value", MAYBE, kind=int),),
        (Option(("--cancel",), "interrupt it"),),
        examples=("%flame jobs", "job = %flame jobs 3", "%flame jobs 3 --cancel"),
        instead={KERNEL: "cells of this kernel run one after the other, so there are no jobs; see %flame where"},
    ),
    Command(
        "console",
        "a Python prompt there; Ctrl-D ends it",
        (),
        (ON_CONNECTION,),
        instead={KERNEL: "cells are the prompt here; in a terminal it is: jupyter flame console"},
    ),
    Command(
        "help",
        "this list, or all about one command",
        (Argument("name", "COMMAND", "one of the commands", MAYBE, ("command",)),),
        examples=("%flame help connect", "%flame connect?"),
        passes=True,
    ),
)

# The options of a %%flame cell.
_CELL_OPTIONS: tuple[Option, ...] = (
    Option(("--local",), "run the cell here, too", faces=(MAGICS,)),
    Option(("--no-raise-error",), "show an error, and go on"),
    Option(("--timeout",), "interrupt the cell after S seconds", "S", kind=float),
    Option(("--profile",), "show where its time went, on one host; %flame help profile tells more"),
    Option(("--try",), "in a copy of the process, on one host; %flame help try tells more", faces=(MAGICS,)),
    *OUTPUT_OPTIONS,
    *FOLLOWING_OPTIONS,
)
_IN = Option(("-i", "--in"), "push this variable before; repeatable", "VAR", tab=("name",), many=True)
_PULL = Option(("-o", "--pull"), "pull this variable after; repeatable", "VAR", tab=("code",), many=True)
CELL = Command(
    "%%flame",
    "run the cell on a far side: output, figures, prompts and errors appear here; Ctrl-C and Stop stop it",
    (),
    (_TARGETS, _IN, _PULL, replace(_OUT, flags=("--out",)), *_WAITING, *_CELL_OPTIONS),
    more="With several targets the cell runs on all of them at once, and equal output is shown once. "
    "--pull then gives a mapping by host, and --out binds the results. In the Remote Flame kernel it is for servers "
    "other than where cells run, or for some of their group; input() gets no answer there.",
    examples=("%%flame -i samples -o mean", "%%flame --bg --out job", "%%flame -t web --mask"),
)
# The magics of %flame px --install.
PX = Command(
    "%%px",
    "run the cell on several far sides, as %%flame -t; -o is --out here",
    (),
    (_TARGETS, _IN, replace(_PULL, flags=("--pull",)), _OUT, *_WAITING, *_CELL_OPTIONS),
    examples=("%%px -t 1::2 --noblock -o later",),
)
PXCONFIG = Command(
    "%pxconfig",
    "what %px and %%px do where their line says nothing",
    (),
    (_TARGETS, *_WAITING, *FOLLOWING_OPTIONS),
    examples=("%pxconfig --noblock", "%pxconfig -t 1::2 --progress-after -1"),
)

BY_NAME: dict[str, Command] = {name: one for one in COMMANDS for name in (one.name, *one.aliases)}


def commands(face: str) -> tuple[Command, ...]:
    """The commands that make sense in a face, in the order of the help."""
    return tuple(one for one in COMMANDS if face in one.faces)
