"""A way to a server that listens on another machine's own loopback: the system's ``ssh``, opened, kept and ended here.

It is the user's ssh with the user's configuration, agent, jump hosts and shared connections (ControlPath).  It forwards
a unix socket in a folder of mode 0700, so no other user of this machine can take the way.  The process lives as long as
a connection goes through it, and ends with us even if we are killed: a shell with a pipe of ours ends it then.

Where ssh may ask (a password, a passphrase, a new host's key) the questions come by its SSH_ASKPASS: a script in that
folder passes them on to us, and no answer stands in an argument list, an environment or a file.
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

from ..errors import MAX_NAME, CannotConnect, TargetError, cap
from .keys import Ask, keyless
from .location import Location

_LOOK = 0.02  # seconds between two checks of an ssh that is logging in
_GRACE = 2.0  # seconds for ssh to end by itself
_MAX_PATH = 100  # bytes of our socket's path: sockaddr_un has 108

# ssh, and beside it a watch on our pipe: when that ends, by `close` or with our process, ssh does too.
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

# Of what ssh says, the lines that trying again later does not cure.
_LASTING = re.compile(
    r"permission denied|host key verification failed|identification has changed|bad configuration|bad owner|"
    r"too many authentication|no supported authentication|unknown option|forwarding|administratively prohibited|"
    r"no matching|address already in use|cannot bind",
    re.IGNORECASE,
)
# … and those that only say that something was said before.
_HOLLOW = re.compile(r"^Warning:|^@|terminating,|Could not request local forwarding")
_REFUSED_THERE = re.compile(r"open failed: (.*)")


class Tunnel:
    """The way to ``location``, whose ``ssh`` is given; made closed, opened by the first ``connect``.

    look    find out whether the socket there is in a folder that is ours alone, before the first connection

    Any thread may use it. Each connection made is to be given back with ``release``; the last one ends ssh.
    """

    def __init__(self, location: Location, look: bool = False) -> None:
        self.location = location
        self.is_ours = False  # whether only the user that ssh logs in as can have made the socket at the other end
        self._look = look and bool(location.path)
        self._changed = threading.Condition()
        self._users = 0  # connections, made and in the making
        self._opening = False
        self._was_open = False
        self._read = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._shared = False  # carried by another ssh of the user's: ours has ended, well

    def __repr__(self) -> str:
        state = "opening" if self._opening else "open" if self._is_up() else "closed"
        return f"<Tunnel {self.location} {state}, {self._users} connections>"

    def connect(self, seconds: float, login: float, alive: float = 15.0, ask: Ask | None = None) -> socket.socket:
        """A connected socket whose other end is the server's; CannotConnect, TargetError.

        seconds  until the ssh host must answer
        login    until ssh must be logged in; questions to the user do not count
        alive    between two signs of life that ssh asks for; it gives up after three that did not come
        ask      for what ssh asks; used until the tunnel was up once: later nobody sits there
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
            with contextlib.suppress(OSError):  # else the ssh that carries it has just ended
                return self._dial(seconds)
        self._end()
        self._open(seconds, login, alive, None if self._was_open else ask)
        self._was_open = True
        try:
            return self._dial(seconds)
        except OSError as error:
            raise CannotConnect(str(self.location), "ssh", "its forwarded socket takes no connection") from error

    def release(self) -> None:
        """A connection that ``connect`` made is closed."""
        with self._changed:
            self._users -= 1
        self._end_unused()

    def refusal(self) -> str:
        """What ssh said of the far end of the last connection, such as ``Connection refused``; empty if nothing."""
        found = _REFUSED_THERE.findall(self._said(self._read))
        return cap(_clean(found[-1]), MAX_NAME) if found else ""

    # --- ssh

    def _is_up(self) -> bool:
        return self._shared or (self._process is not None and self._process.poll() is None)

    def _dial(self, seconds: float) -> socket.socket:
        assert self._folder is not None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._read = (self._folder / "log").stat().st_size  # what stands there is of earlier connections
            connection.settimeout(seconds)
            connection.connect(str(self._folder / "s"))
        except BaseException:  # goes on, whatever it is; the socket is closed
            connection.close()
            raise
        return connection

    def _open(self, seconds: float, login: float, alive: float, ask: Ask | None) -> None:
        if shutil.which("ssh") is None:
            raise TargetError(
                f"{self.location} needs the program ssh, and there is none here; install OpenSSH's client"
            )
        self._folder = _folder()
        try:
            self._start(seconds, alive, ask is not None)
            self._wait(time.monotonic() + login, ask)
            self.is_ours = self._look and self._is_private_there(seconds, login)
        except BaseException:  # goes on, whatever it is; ssh and its folder do not stay
            self._end()
            raise

    def _is_private_there(self, seconds: float, login: float) -> bool:
        """Whether the socket's folder there has mode 0700 and is of the user that ssh logs in as.

        One more login, which asks nothing: where that is not let in, or runs no commands, the answer is no.
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

    def _host(self) -> list[str]:
        """What names the machine."""
        ssh = self.location.ssh
        assert ssh is not None
        found = ["-l", ssh.user] if ssh.user else []
        found += ["-p", str(ssh.port)] if ssh.port else []
        return [*found, ssh.host]

    def _arguments(self) -> list[str]:
        """What names the way: the forwarding, and the host."""
        if self.location.path:
            there = self.location.path.replace("\\", "\\\\").replace(":", "\\:")
        else:
            host = self.location.host
            there = f"[{host}]:{self.location.port}" if ":" in host else f"{host}:{self.location.port}"
        return ["-L", f"{self._folder}/s:{there}", *self._host()]

    def _start(self, seconds: float, alive: float, may_ask: bool) -> None:
        assert self._folder is not None
        options = {
            "BatchMode": "no" if may_ask else "yes",
            "ConnectTimeout": f"{max(1, round(seconds))}",
            "ControlMaster": "no",  # share a connection that is there; be nobody's, as it would outlive us
            "ExitOnForwardFailure": "yes",
            "LogLevel": "INFO",  # what goes wrong is said on stderr
            "PermitLocalCommand": "no",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": f"{max(1, round(alive))}",
            "StreamLocalBindMask": "0177",
        }
        environ = _environ()
        if may_ask:
            for name in ("question", "answer"):
                os.mkfifo(self._folder / name, 0o600)
            script = self._folder / "askpass"
            script.touch(0o700)
            script.write_text(_ASKPASS)
            environ |= {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}
            environ.setdefault("DISPLAY", ":")  # before 8.4 a display decided who is asked; nothing is shown there
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "ssh", str(self._folder), "-NTax", *flags, *self._arguments()],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environ,
                start_new_session=True,  # Ctrl-C in our terminal is not for it, nor is the terminal for its questions
            )

    def _wait(self, deadline: float, ask: Ask | None) -> None:
        """Until the forwarded socket is there; CannotConnect with what ssh said where it will not be."""
        assert self._process is not None
        assert self._folder is not None
        questions = os.open(self._folder / "question", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if ask else None
        try:
            while True:
                there = (self._folder / "s").is_socket()
                if there:
                    time.sleep(_LOOK)  # a forwarding of the user's own may fail after ours, and ssh end of it
                ended = self._process.poll()
                if there and ended in (0, None):
                    self._shared = ended == 0
                    return
                if ended is not None:
                    raise self._failure()
                if time.monotonic() > deadline:
                    raise CannotConnect(str(self.location), "ssh", "it is not logged in in time")
                if questions is not None and ask is not None:
                    began = time.monotonic()
                    self._pass_on(questions, ask)
                    deadline += time.monotonic() - began
                time.sleep(_LOOK)
        finally:
            if questions is not None:
                os.close(questions)

    def _pass_on(self, questions: int, ask: Ask) -> None:
        """Ask the user what ssh asks, if it does; CannotConnect where no answer is to be had."""
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
        while time.monotonic() < give_up:  # the script opens it as soon as its question is read
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
        # The last line may only say that the connection is closed; what was refused stands before it.
        lasting = [line for line in telling if _LASTING.search(line)]
        cause = "ssh_denied" if lasting else "ssh"
        said = (lasting or telling or ["it ended without a word"])[-1]
        return CannotConnect(str(self.location), cause, cap(said, MAX_NAME))

    def _said(self, start: int = 0) -> str:
        """The end of what ssh has printed, from ``start`` on."""
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
            self._opening = True  # whoever comes now waits, and opens it anew
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
                os.killpg(process.pid, 9)  # not yet waited for, so its number is nobody else's
                process.wait()
        if shared:  # the user's own ssh goes on, without our forwarding
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


def _folder() -> Path:
    """A folder of mode 0700 whose path leaves room for a socket's name, and means nothing else to ssh."""
    for place in (None, "/tmp"):
        folder = tempfile.mkdtemp(prefix="flame-ssh-", dir=place)
        if len(os.fsencode(folder)) < _MAX_PATH and re.fullmatch(r"[A-Za-z0-9_./+-]+", folder):
            return Path(folder)
        os.rmdir(folder)
    raise TargetError("the folder for temporary files has too long a name for a socket; set TMPDIR to a shorter one")


def _environ() -> dict[str, str]:
    """What ssh, and what its configuration runs, sees of our environment."""
    return {name: value for name, value in keyless(os.environ).items() if not name.startswith("SSH_ASKPASS")}


def _clean(text: str) -> str:
    """One line without control characters: a server may have its say in what ssh prints."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()
