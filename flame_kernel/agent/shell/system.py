"""System commands (``!cmd``, ``%%bash``): their output appears while they run, and interrupts reach them.

The cell's own thread waits for the command in short steps: Python can raise an interrupt between two of them, and the
output belongs to the cell.
"""

import codecs
import locale
import os
import selectors
import signal
import subprocess
import threading
import time

from .. import pipes, threads, windows

# In seconds: one step of waiting; how long a command may take to end after SIGINT and after SIGTERM; how long we still
# read from a pipe that a background process keeps open after the command itself has ended.
STEP = 0.05
GRACE = (2.0, 1.0)
LEFT_OPEN = 0.2

# Variables that ipykernel sets: colour although there is no terminal, and no pager that waits for a key.
ENVIRONMENT = {
    "TERM": "xterm-color",
    "CLICOLOR": "1",
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
}

# Python buffers its lines when it writes to a pipe; on ipykernel's terminal it does not.
BUFFERING = {"PYTHONUNBUFFERED": "1"}


def run(command, out, err=None, data=None, own_group=True):
    """Run a command until it ends; returns its exit status, negative for a signal.

    command    text for the user's shell, or a list of words
    out, err   called with text as it comes, on this thread; without ``err``, ``out`` gets both streams in their order
    data       bytes for its standard input, which is otherwise empty
    own_group  give it a process group of its own, and stop the whole group. Otherwise only the command itself is
               stopped: in a child session an interrupt goes to the whole group anyway

    An interrupt stops the command (SIGINT, then SIGTERM, then SIGKILL) and is raised again when the command has ended.
    A second interrupt skips to the next signal. Raises OSError if a program given as a list cannot be started.
    """
    if isinstance(command, str) and os.name == "posix":
        command = [_shell(), "-c", command]
    process, interrupt = _start(
        command,
        shell=isinstance(command, str),
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if err is None else subprocess.PIPE,
        env=dict(BUFFERING, **dict(os.environ, **ENVIRONMENT)),
        start_new_session=own_group and os.name == "posix",
        creationflags=subprocess.CREATE_NEW_PROCESS_GROUP if own_group and os.name == "nt" else 0,
    )
    pump = _Pump(process, out, err, data)
    try:
        if interrupt is not None:
            raise interrupt
        while pump.step():
            pass
        while process.poll() is None:  # it has closed its output but still runs
            time.sleep(STEP)
    except BaseException:  # raised again, mostly an interrupt; the command is stopped first
        _stop(process, pump, own_group)
        raise
    finally:
        pump.close()
    return process.returncode


def collect(command, own_group=True):
    """``(text, exit status)`` of a command; the text includes stderr."""
    parts = []
    status = run(command, parts.append, own_group=own_group)
    return "".join(parts), status


def _start(command, **options):
    """Start a command: ``(process, interrupt)``. Another thread does it, because an interrupt within Popen would leave
    a process that we do not know of. An interrupt in the meantime is returned, to be raised once there is a process to
    stop."""
    started, interrupt = [], None

    def start():
        try:
            started.append(subprocess.Popen(command, **options))
        except BaseException as e:  # raised again on the thread that waits
            started.append(e)

    thread = threading.Thread(target=start, name="flame-popen")
    try:
        thread.start()
    except KeyboardInterrupt as e:
        interrupt = e
    patience = time.monotonic() + 1.0
    while not started and (thread.is_alive() or time.monotonic() < patience):
        try:
            thread.join(STEP) if thread.is_alive() else time.sleep(STEP)
        except KeyboardInterrupt as e:
            interrupt = e
    if not started:
        raise interrupt
    if isinstance(started[0], BaseException):
        raise started[0]
    return started[0], interrupt


def _selector():
    """A selector for any descriptor; ``select`` takes only those below 1024."""
    return getattr(selectors, "PollSelector", selectors.DefaultSelector)()


def _shell():
    """The user's shell, as in ipykernel; ``sh`` if SHELL names nothing that can be run."""
    shell = os.environ.get("SHELL", "")
    return shell if os.access(shell, os.X_OK) and os.path.isfile(shell) else "/bin/sh"


def _stop(process, pump, own_group):
    """End a process by SIGINT, then SIGTERM, then SIGKILL. Another interrupt meanwhile skips to the next signal."""
    for signum, grace in zip((signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGKILL", 9)), GRACE + (1.0,)):
        try:
            if signum == signal.SIGINT and _over(process, pump, 2 * STEP):
                break  # the session's own interrupt has already reached it
            _send(process, signum, own_group)
            if _over(process, pump, grace):
                break
        except KeyboardInterrupt:
            continue
    if own_group and process.poll() is not None:
        _send(process, signal.SIGTERM, own_group)  # processes that it left behind


def _over(process, pump, seconds):
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        if not pump.step():
            time.sleep(STEP / 5)
    return True


def _send(process, signum, own_group):
    try:
        if os.name == "nt":
            _send_on_windows(process, signum, own_group)
        elif own_group:
            os.killpg(process.pid, signum)
        else:
            process.send_signal(signum)
    except OSError:
        pass  # the process has ended


def _send_on_windows(process, signum, own_group):
    """On Windows: SIGINT becomes Ctrl-Break if the process has a group of its own (it needs a console); otherwise the
    process is ended at once."""
    if signum != signal.SIGINT or not own_group:
        windows.terminate(process.pid)
    else:
        process.send_signal(signal.CTRL_BREAK_EVENT)


class _Pump:
    """Moves bytes between a process and us, step by step."""

    def __init__(self, process, out, err, data):
        self._process = process
        self._data = memoryview(data or b"")
        self._selector = pipes.Selector() if os.name == "nt" else _selector()
        encoding = locale.getpreferredencoding(False) or "utf-8"
        for pipe, call in ((process.stdout, out), (process.stderr, err)):
            if pipe is not None:
                decoder = codecs.getincrementaldecoder(encoding)("replace")
                self._selector.register(pipe, selectors.EVENT_READ, (call, decoder))
        if process.stdin is not None and os.name == "nt":
            threads.start("stdin", self._feed_all)
        elif process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE)
        self._ended = None

    def step(self):
        """Wait a moment for data and move it; False when no more can come."""
        if not self._selector.get_map():
            return False
        ready = self._selector.select(STEP)
        for key, _ in ready:
            if key.data is None:
                self._feed(key)
                continue
            call, decoder = key.data
            chunk = os.read(key.fd, 1 << 16)
            if not chunk:
                self._selector.unregister(key.fileobj)
            text = decoder.decode(chunk, not chunk)
            if os.linesep != "\n":
                text = text.replace(os.linesep, "\n")
            if text:
                call(text)
        if not ready and self._process.poll() is not None:
            now = time.monotonic()
            self._ended = self._ended or now
            return now - self._ended < LEFT_OPEN
        return True

    def _feed_all(self):
        try:
            with self._process.stdin as pipe:
                pipe.write(self._data)
        except OSError:
            pass  # the process does not want the rest

    def _feed(self, key):
        try:
            self._data = self._data[os.write(key.fd, self._data[: 1 << 15]) :]
        except BlockingIOError:
            return
        except OSError:
            self._data = self._data[:0]  # the process does not want the rest
        if not self._data:
            self._selector.unregister(key.fileobj)
            key.fileobj.close()

    def close(self):
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except OSError:
                    pass
