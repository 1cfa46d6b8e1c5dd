"""``jupyter flame serve``: this process becomes a stock Flame server, Pyro's own ``flameserver``.

Nothing of ours runs in it but ``hardening``, unless a Plan leaves that out; cells see neither the key nor how it was
started.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from ..errors import TargetError
from . import hardening
from .plan import KeyFile, Plan, clear_socket

# The new program: everything else comes by a pipe, so neither the arguments nor the environment hold a secret. The
# current folder leaves the path before anything is imported: a Pyro4.py may lie there.
_BEGIN = """\
import sys
sys.path[:] = [folder for folder in sys.path if folder]
import os, json
with os.fdopen(int(sys.argv[1]), "rb") as told: told = json.loads(told.read().decode())
del sys.argv[1:]
exec(compile(told.pop("program"), "<jupyter flame serve>", "exec"))"""

_PROGRAM = """\
import signal, types

def end(*args):
    sys.exit(0)

for number in (signal.SIGTERM, signal.SIGHUP):
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

_PORT = "@PORT@"  # in what is said, for what only the server knows


def run(plan: Plan, key_file: Path | None = None, python: str = sys.executable) -> NoReturn:
    """Become the server of ``plan``: this process is it from now on, run by ``python``, which must have Pyro4.

    It prints how to connect, and ends by Ctrl-C or SIGTERM. Raises TargetError where it cannot be.
    """
    if plan.unix is not None:
        clear_socket(plan.unix)
    key = KeyFile.get(key_file)
    port = plan.port or _PORT
    protection = "TLS and a key" if plan.tls else "a key"
    hardened = "; clients without it are cut" if plan.harden else ""
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
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYRO_", "FLAME_"))}
    reading, writing = os.pipe()
    try:
        # Less than a pipe holds, so nobody has to read yet.
        os.write(writing, json.dumps(told).encode())
        os.close(writing)
        os.set_inheritable(reading, True)
        sys.stdout.flush()
        os.execve(python, [python, "-c", _BEGIN, str(reading)], environ)
    except OSError as error:
        key.remove()
        raise TargetError(f"cannot run {python}: {error.strerror}; name an interpreter that has Pyro4") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
