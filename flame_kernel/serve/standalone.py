"""``jupyter flame serve`` turns this process into a stock Flame server, Pyro's own ``flameserver``.

Only ``hardening`` of ours runs in it, and not even that if the Plan says so. Cells can see neither the key nor how the
server was started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from ..agent.wire.launch import LEAVE_FOLDER
from ..connect.keys import keyless
from ..errors import TargetError
from . import hardening
from .plan import KeyFile, Plan, clear_socket

# The new program. All else is passed over a pipe, so no secret is in the arguments or the environment.
_BEGIN = f"""\
{LEAVE_FOLDER}
import json
with os.fdopen(int(sys.argv[1]), "rb") as told: told = json.loads(told.read().decode())
del sys.argv[1:]
exec(compile(told.pop("program"), "<jupyter flame serve>", "exec"))"""

_PROGRAM = """\
import signal, types

def end(*args):
    sys.exit(0)

for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
    signal.signal(number, end)
daemon = hardened = None
try:
    try:
        from Pyro4.configuration import config
        config.reset(useenvironment=False)
        for name, value in told["settings"].items():
            setattr(config, name, value)
        from Pyro4.utils import flameserver
        os.umask(0o077)  # for the socket
        daemon, uri = flameserver.main(told["arguments"], returnWithoutLooping=True)
        os.umask(told["umask"])
        daemon._pyroHmacKey = told.pop("key").encode()
        if told["hardening"]:
            module = types.ModuleType("flame_hardening")
            exec(compile(told["hardening"], "<hardening>", "exec"), module.__dict__)
            hardened = module.harden(daemon)
    except Exception as error:
        print("jupyter flame serve: the server did not start: %s: %s" % (type(error).__name__, error), file=sys.stderr)
        sys.exit(1)
    for line in told["say"]:
        print(line.replace(told["port"], str(uri.port)))
    sys.stdout.flush()
    daemon.requestLoop()
except KeyboardInterrupt:
    pass
finally:
    for path in told["remove"]:
        try:
            os.unlink(path)
        except OSError:
            pass
    if hardened is not None:
        hardened.undo()
    if daemon is not None:
        daemon.close()
"""

_PORT = "@PORT@"  # placeholder in printed lines: only the server knows its port


def run(plan: Plan, key_file: Path | None = None, python: str = sys.executable) -> NoReturn:
    """Replace this process by the server of ``plan``, run by ``python``, which must have Pyro4.

    The server prints how to connect, and ends on Ctrl-C or SIGTERM. Raises TargetError if it cannot be started.
    """
    if plan.unix is not None:
        clear_socket(plan.unix)
    key = KeyFile.get(key_file)
    port = plan.port or _PORT
    protection = "TLS and a key" if plan.tls else "a key"
    hardened = "; clients without it are disconnected" if plan.harden else ""
    told = {
        "program": _PROGRAM,
        "settings": plan.settings,
        "arguments": plan.arguments,
        "key": key.key.reveal().decode("utf-8", "surrogateescape"),
        "umask": _umask(),
        "hardening": Path(hardening.__file__).read_text("utf-8") if plan.harden else "",
        "port": _PORT,
        "say": [
            f"Flame server at {plan.location(port)}, protected by {protection}{hardened}.",
            "Whoever gets in can do all that you can. Paste into a notebook:",
            *(f"    {line}" for line in plan.advice(port, key.path)),
            "Ctrl-C ends it, with all that runs in it.",
        ],
        "remove": [str(key.path)] if key.made else [],
    }
    environ = {name: value for name, value in keyless(os.environ).items() if not name.startswith(("PYRO_", "FLAME_"))}
    if os.name == "nt":  # a program that takes the place of another one has none of its descriptors there
        sys.exit(subprocess.run([python, "-c", _BEGIN, "0"], input=json.dumps(told).encode(), env=environ).returncode)
    reading, writing = os.pipe()
    try:
        # Smaller than a pipe, so writing does not block although nothing reads yet.
        os.write(writing, json.dumps(told).encode())
        os.close(writing)
        os.set_inheritable(reading, True)
        sys.stdout.flush()
        environ["PYTHONSAFEPATH"] = environ.get("PYTHONSAFEPATH", "${PYTHONSAFEPATH}")  # LEAVE_FOLDER removes ours
        os.execve(python, [python, "-c", _BEGIN, str(reading)], environ)
    except OSError as error:
        key.remove()
        raise TargetError(f"cannot run {python}: {error.strerror}; name an interpreter that has Pyro4") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
