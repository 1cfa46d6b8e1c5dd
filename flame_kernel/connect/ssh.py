"""An ssh tunnel to a server that listens only on the loopback of its own machine. This file starts and ends ``ssh``.

It is the system's ssh with the user's configuration, agent, jump hosts and shared connections (ControlPath).  It
forwards a unix socket in a folder of mode 0700, so no other user of this machine can use the tunnel; ``ssh_port.py``
does without one.  The ssh process lives as long as a connection goes through it.  It ends even if we are killed: a
shell watches a pipe of ours and then ends ssh.

If ssh may ask for a password, a passphrase or about a new host's key, it asks through SSH_ASKPASS: a script in that
folder passes the questions on to us. Answers never appear in an argument list, an environment or a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from ..errors import MAX_NAME, CannotConnect, TargetError, cap
from .keys import Ask, keyless
from .location import Location

_LOOK = 0.02  # seconds between two checks while ssh logs in
_GRACE = 2.0  # seconds for ssh to end by itself
FOLDER = "flame-ssh-"  # how the names of our folders begin
_MAX_PATH = 100  # bytes of our socket's path; sockaddr_un has 108

# Starts ssh, and a watch on our pipe. When the pipe ends, by `close` or because our process died, ssh is ended, too.
_KEEPER = """
folder=$1
shift
exec 3<&0
ssh "$@" </dev/null 3<&- &
ssh=$!
( read -r nothing <&3; rm -rf "$folder"; kill "$ssh" 2>/dev/null ) &
exec 3<&-
wait "$ssh"
code=$?
trap '' TERM
kill 0  # the watch, and a question that nobody answers any more
exit "$code"
"""

_ASKPASS = """#!/bin/sh
printf '%s' "$1" | tr '\\n' ' ' >"${0%/*}/question"
IFS= read -r answer <"${0%/*}/answer" || exit 1
printf '%s\\n' "$answer"
"""

# Lines of ssh that mean an error that trying again later will not fix.
_LASTING = re.compile(
    r"permission denied|host key verification failed|identification has changed|bad configuration|bad owner|"
    r"too many authentication|no supported authentication|unknown option|forwarding|administratively prohibited|"
    r"no matching|address already in use|cannot bind",
    re.IGNORECASE,
)
# Lines of ssh that give no reason of their own; those with a number are asked for by ``ssh_port.py``.
_HOLLOW = re.compile(
    r"^Warning:|^@|terminating,|Could not request local forwarding|^debug\d|^Authenticated to|^Transferred:|^Bytes per"
)
_REFUSED_THERE = re.compile(r"open failed: (.*)")


class Tunnel:
    """An ssh tunnel to ``location``, which has ``ssh`` set. The first ``connect`` starts ssh.

    look    before the first connection, check whether the remote socket is in a folder that only our user can enter

    Any thread may use it. Call ``release`` for each connection made; the last one ends ssh.
    """

    def __init__(self, location: Location, look: bool = False) -> None:
        self.location = location
        self.is_ours = False  # whether only the user that ssh logs in as can have made the remote socket
        self._look = look and bool(location.path)
        self._changed = threading.Condition()
        self._users = 0  # connections that are open or being opened
        self._opening = False
        self._was_open = False
        self._read = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._shared = False  # another ssh of the user's (ControlMaster) forwards; our own has ended normally

    def __repr__(self) -> str:
        state = "opening" if self._opening else "open" if self._is_up() else "closed"
        return f"<Tunnel {self.location} {state}, {self._users} connections>"

    def connect(self, seconds: float, login: float, alive: float = 15.0, ask: Ask | None = None) -> socket.socket:
        """A socket connected to the server; raises CannotConnect, TargetError. Times are in seconds.

        seconds  time for the ssh host to answer
        login    time for ssh to log in; waiting for the user's answers does not count
        alive    time between ssh's keepalive messages; ssh gives up after three without an answer
        ask      asks the user what ssh asks; not used after the tunnel was open once, as then nobody may be there
        """
        with self._changed:
            self._users += 1
            while self._opening:
                self._changed.wait()
            self._opening = True
        made: socket.socket | None = None
        try:
            made = self._connect(seconds, login, alive, ask)
            return made
        finally:
            with self._changed:
                self._users -= made is None
                self._opening = False
                self._changed.notify_all()
            if made is None:
                self._end_unused()

    def _connect(self, seconds: float, login: float, alive: float, ask: Ask | None) -> socket.socket:
        if self._is_up():
            with contextlib.suppress(OSError):  # on an error ssh has just ended: start it again
                return self._dial(seconds)
        self._end()
        self._open(seconds, login, alive, None if self._was_open else ask)
        self._was_open = True
        try:
            return self._dial(seconds)
        except OSError as error:
            raise CannotConnect(str(self.location), "ssh", "its forwarded socket takes no connection") from error

    def release(self) -> None:
        """Call this when a connection that ``connect`` made is closed."""
        with self._changed:
            self._users -= 1
        self._end_unused()

    def cautions(self, authenticated: bool, checked: bool) -> list[str]:
        """What is unsafe, if the server does not prove its identity, or its clients are not checked: by their key, or
        certificate."""
        return [] if authenticated else [f"{self._unproved()}, or a socket in a folder of mode 0700"]

    def _unproved(self) -> str:
        return (
            f"the server at {self.location} has no key: ssh proves the machine, and any of its users may answer there; "
            "give it a key"
        )

    def refusal(self) -> str:
        """Why ssh could not open the last connection, such as ``Connection refused``; empty if it did not say."""
        found = _REFUSED_THERE.findall(self._said(self._read))
        return cap(_clean(found[-1]), MAX_NAME) if found else ""

    # --- ssh

    def _is_up(self) -> bool:
        return self._shared or (self._process is not None and self._process.poll() is None)

    def _dial(self, seconds: float) -> socket.socket:
        assert self._folder is not None
        family, address = self._here()
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._read = (self._folder / "log").stat().st_size  # the log so far is about earlier connections
            connection.settimeout(seconds)
            connection.connect(address)
        except BaseException:  # raised again, whatever it is; the socket is closed
            connection.close()
            raise
        return connection

    def _open(self, seconds: float, login: float, alive: float, ask: Ask | None) -> None:
        if self._program() is None:
            raise TargetError(
                f"{self.location} needs the program ssh, and there is none here; install OpenSSH's client"
            )
        self._folder = self._new_folder()
        try:
            self._log_in(seconds, login, alive, ask)
            self.is_ours = self._look and self._is_private_there(seconds, login)
        except BaseException:  # raised again, whatever it is; ssh and its folder do not stay
            self._end()
            raise

    def _log_in(self, seconds: float, login: float, alive: float, ask: Ask | None) -> None:
        self._start(seconds, alive, ask is not None)
        self._wait(time.monotonic() + login, ask)

    def _is_private_there(self, seconds: float, login: float) -> bool:
        """Whether the socket's folder on the server has mode 0700 and belongs to the user that ssh logs in as.

        This logs in once more without asking the user; if that fails, or no command can be run, the answer is no.
        """
        folder = os.path.dirname(self.location.path) + "/."
        options = ("BatchMode=yes", f"ConnectTimeout={max(1, round(seconds))}", "PermitLocalCommand=no")
        flags = [
            part for option in (*options, "ClearAllForwardings=yes", "ControlMaster=no") for part in ("-o", option)
        ]
        try:
            done = subprocess.run(
                ["ssh", "-Tax", *flags, *self._host(), f"LC_ALL=C; export LC_ALL; ls -ldn '{folder}'; id -u"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environ(),
                timeout=login,
            )
        except (OSError, subprocess.SubprocessError):
            return False
        words = done.stdout[:4096].decode("utf-8", "replace").split()
        return len(words) > 4 and words[0] in ("drwx------", "drwx------.") and words[2] == words[-1]

    # --- our end of it

    # so Ctrl-C does not reach ssh, and it cannot ask on our terminal
    _apart: ClassVar[dict[str, Any]] = {"start_new_session": True}

    def _program(self) -> str | None:
        return shutil.which("ssh")

    def _new_folder(self) -> Path:
        """A folder of mode 0700 whose path is short enough for a socket and has no characters special to ssh."""
        for place in (None, "/tmp"):
            folder = tempfile.mkdtemp(prefix=FOLDER, dir=place)
            if len(os.fsencode(folder)) < _MAX_PATH and re.fullmatch(r"[A-Za-z0-9_./+-]+", folder):
                return Path(folder)
            os.rmdir(folder)
        raise TargetError(
            "the folder for temporary files has too long a name for a socket; set TMPDIR to a shorter one"
        )

    def _here(self) -> tuple[int, Any]:
        """The family and the address of our end, for a socket."""
        return socket.AF_UNIX, f"{self._folder}/s"

    def _listening(self) -> str:
        """Our end, as ssh wants it."""
        return f"{self._folder}/s"

    def _is_there(self) -> bool:
        """Whether ssh listens at our end."""
        return Path(f"{self._folder}/s").is_socket()

    def _command(self, words: list[str]) -> list[str]:
        """The program that starts ssh with these words, and ends it when its stdin ends."""
        return ["/bin/sh", "-c", _KEEPER, "ssh", str(self._folder), *words]

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, 9)  # not yet waited for, so the pid cannot have been reused

    # --- the words for ssh

    def _host(self) -> list[str]:
        """The arguments that name the machine."""
        ssh = self.location.ssh
        assert ssh is not None
        found = ["-l", ssh.user] if ssh.user else []
        found += ["-p", str(ssh.port)] if ssh.port else []
        return [*found, ssh.host]

    def _arguments(self) -> list[str]:
        """The arguments for the forwarding and the host."""
        if self.location.path:
            there = self.location.path.replace("\\", "\\\\").replace(":", "\\:")
        else:
            host = self.location.host
            there = f"[{host}]:{self.location.port}" if ":" in host else f"{host}:{self.location.port}"
        return ["-L", f"{self._listening()}:{there}", *self._host()]

    def _start(self, seconds: float, alive: float, may_ask: bool) -> None:
        assert self._folder is not None
        options = self._options(seconds, alive, may_ask)
        environ = _environ()
        if may_ask:
            for name in ("question", "answer"):
                os.mkfifo(self._folder / name, 0o600)
            script = self._folder / "askpass"
            script.touch(0o700)
            script.write_text(_ASKPASS)
            environ |= {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}
            environ.setdefault("DISPLAY", ":")  # OpenSSH before 8.4 needs one to use SSH_ASKPASS; it is not opened
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                self._command(["-NTax", *flags, *self._arguments()]),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environ,
                **self._apart,
            )

    def _options(self, seconds: float, alive: float, may_ask: bool) -> dict[str, str]:
        return {
            "BatchMode": "no" if may_ask else "yes",
            "ConnectTimeout": f"{max(1, round(seconds))}",
            "ControlMaster": "no",  # use a shared connection, but do not offer one: it would outlive us
            "ExitOnForwardFailure": "yes",
            "LogLevel": "INFO",  # so that errors are printed on stderr
            "PermitLocalCommand": "no",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": f"{max(1, round(alive))}",
            "StreamLocalBindMask": "0177",
        }

    def _wait(self, deadline: float, ask: Ask | None) -> None:
        """Wait until the forwarded socket exists; CannotConnect with ssh's message if ssh fails."""
        assert self._process is not None
        assert self._folder is not None
        questions = os.open(self._folder / "question", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if ask else None
        try:
            while True:
                there = self._is_there()
                if there:
                    time.sleep(_LOOK)  # a forwarding in the user's configuration may fail next and end ssh
                ended = self._process.poll()
                if there and ended in (0, None):
                    self._shared = ended == 0
                    return
                if ended is not None:
                    raise self._failure()
                if time.monotonic() > deadline:
                    raise CannotConnect(str(self.location), "ssh", "it did not log in in time")
                if questions is not None and ask is not None:
                    began = time.monotonic()
                    self._pass_on(questions, ask)
                    deadline += time.monotonic() - began
                time.sleep(_LOOK)
        finally:
            if questions is not None:
                os.close(questions)

    def _pass_on(self, questions: int, ask: Ask) -> None:
        """If ssh asks something, ask the user; CannotConnect if there is no answer."""
        assert self._folder is not None
        try:
            text = os.read(questions, 4096).decode("utf-8", "replace")
        except BlockingIOError:
            return
        if not text:
            return
        answer = ask(f"ssh to {self.location.ssh}: {_clean(text)} ", "(yes/no" not in text)
        if answer is None:
            raise CannotConnect(str(self.location), "ssh_denied", f"it asks: {cap(_clean(text), MAX_NAME)}")
        give_up = time.monotonic() + _GRACE
        while time.monotonic() < give_up:  # until the script opens its end of the pipe
            with contextlib.suppress(OSError):
                pipe = os.open(self._folder / "answer", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    os.write(pipe, answer.split("\n")[0].encode() + b"\n")
                finally:
                    os.close(pipe)
                return
            time.sleep(_LOOK)

    def _failure(self) -> CannotConnect:
        lines = [line for line in map(_clean, self._said().splitlines()) if line]
        telling = [line for line in lines if not _HOLLOW.search(line)] or lines
        # The last line may only say that the connection was closed; the reason is in a line before it.
        lasting = [line for line in telling if _LASTING.search(line)]
        cause = "ssh_denied" if lasting else "ssh"
        said = (lasting or telling or ["it ended without a message"])[-1]
        return CannotConnect(str(self.location), cause, cap(said, MAX_NAME))

    def _said(self, start: int = 0) -> str:
        """The last 8 KiB that ssh has printed, from the position ``start`` on."""
        folder = self._folder
        if folder is None:
            return ""
        with contextlib.suppress(OSError), open(folder / "log", "rb") as log:
            log.seek(max(start, os.fstat(log.fileno()).st_size - 8192))
            return log.read(8192).decode("utf-8", "replace")
        return ""

    def _end_unused(self) -> None:
        with self._changed:
            if self._users or self._opening:
                return
            self._opening = True  # a caller of connect() now waits, and then opens a new one
        try:
            self._end()
        finally:
            with self._changed:
                self._opening = False
                self._changed.notify_all()

    def _end(self) -> None:
        process, self._process = self._process, None
        shared, self._shared = self._shared, False
        folder = self._folder
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self._kill(process)
                process.wait()
        if shared:  # the user's own ssh stays; only our forwarding is removed
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    ["ssh", "-o", "BatchMode=yes", "-O", "cancel", *self._arguments()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environ(),
                    timeout=5,
                )
        self._folder = None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _environ() -> dict[str, str]:
    """The environment for ssh and the commands in its configuration: ours without keys."""
    return {name: value for name, value in keyless(os.environ).items() if not name.startswith("SSH_ASKPASS")}


def _clean(text: str) -> str:
    """``text`` as one line without control characters: parts of it may come from the server."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()
