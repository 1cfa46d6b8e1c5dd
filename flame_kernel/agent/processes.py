"""Programs that a cell runs (``!cmd``, ``%%bash``): their output as it comes, their end at an interrupt."""

import codecs
import os
import selectors
import signal
import subprocess
import time

# Seconds: how often a waiting cell looks up (an interrupt gets in there), and what a program has to end in.
TICK = 0.1
GRACE = (1.0, 1.0)

_OUT, _ERR = "stdout", "stderr"


def run(command, out, err, data=None, own_group=True):
    """Run a program; its exit code (negative: the signal that ended it).

    command     text for the system's shell, or a list: program and arguments
    out, err    called with the text that it prints; the same function for both keeps their order
    data        bytes for its standard input, which is empty otherwise
    own_group   make a process group, so that an interrupt reaches what the program started as well
    """
    options = {"start_new_session": True} if own_group and os.name != "nt" else {}
    process = subprocess.Popen(
        command,
        shell=isinstance(command, str),
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if err == out else subprocess.PIPE,
        bufsize=0,
        **options
    )
    try:
        if os.name == "nt":  # no select on pipes there
            texts = process.communicate(data)
            for write, text in zip((out, err), texts):
                if text:
                    write(text.decode("utf-8", "replace"))
        else:
            _pass_on(process, out, err, data)
        return process.wait()
    except BaseException:
        stop(process, own_group)
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass


def _pass_on(process, out, err, data):
    """Hand over what comes until the program is gone. A background process that still has the pipe is not waited for."""
    write = {_OUT: out, _ERR: err}
    decoders = {}
    with selectors.DefaultSelector() as selector:
        for pipe, name in ((process.stdout, _OUT), (process.stderr, _ERR)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                decoders[name] = codecs.getincrementaldecoder("utf-8")("replace")
                selector.register(pipe, selectors.EVENT_READ, name)
        if data is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, None)
            data = memoryview(data)
        ended = False
        while selector.get_map():
            ready = selector.select(0 if ended else TICK)
            for key, _ in ready:
                if key.data is None:
                    data = _feed(selector, key.fileobj, data)
                    continue
                try:
                    piece = os.read(key.fileobj.fileno(), 1 << 16)
                except BlockingIOError:
                    continue
                if not piece:
                    selector.unregister(key.fileobj)
                text = decoders[key.data].decode(piece, final=not piece)
                if text:
                    write[key.data](text)
            if ended and not any(key.data is not None for key, _ in ready):
                return
            ended = process.poll() is not None
    while process.poll() is None:  # it has closed its output and goes on
        time.sleep(TICK / 2)


def _feed(selector, pipe, data):
    try:
        data = data[os.write(pipe.fileno(), data[: 1 << 16]) :]
    except BlockingIOError:
        return data
    except OSError:  # it does not read any more
        data = data[:0]
    if not data:
        selector.unregister(pipe)
        pipe.close()
    return data


def stop(process, own_group):
    """End a program as Ctrl-C does, then by SIGTERM, then for good."""
    signals = [signal.SIGTERM, signal.SIGTERM] if os.name == "nt" else [signal.SIGINT, signal.SIGTERM]
    try:
        for number, seconds in zip(signals, GRACE):
            _send(process, number, own_group)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    return
                time.sleep(0.02)
    except KeyboardInterrupt:
        pass
    finally:
        if process.poll() is None:
            _send(process, getattr(signal, "SIGKILL", signal.SIGTERM), own_group)
            process.wait()


def _send(process, number, own_group):
    try:
        if own_group and os.name != "nt":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except OSError:
        pass
