"""A live application that lets Flame in: state that changes, threads, its own output, and a server in one thread.

Runs on every far-side Python.  A line on stdin is ``[number, command, arguments…]`` in JSON; the main thread carries it
out and answers ``answer number: JSON`` on the stdout that the process began with.
"""

from __future__ import print_function

import builtins
import json
import os
import signal
import sys
import threading

import Pyro4
import Pyro4.utils.flame

OUT = sys.stdout


def now():
    """What an app has that a guest may change: to be compared, by identity, with what it was at the start."""
    return {
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "stdin": sys.stdin,
        "displayhook": sys.displayhook,
        "excepthook": sys.excepthook,
        "threading.excepthook": getattr(threading, "excepthook", None),
        "unraisablehook": getattr(sys, "unraisablehook", None),
        "breakpointhook": getattr(sys, "breakpointhook", None),
        "input": builtins.input,
        "open": builtins.open,
        "print": builtins.print,
        "thread_start": threading.Thread.start,
        "thread_run": threading.Thread.run,
        "SIGINT": signal.getsignal(signal.SIGINT),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "SIGCHLD": signal.getsignal(signal.SIGCHLD),
        "trace": sys.gettrace(),
        "profile": sys.getprofile(),
        "switchinterval": sys.getswitchinterval(),
        "recursionlimit": sys.getrecursionlimit(),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "ps1": getattr(sys, "ps1", None),
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "builtins": sorted(vars(builtins)),
    }


FOUND = now()


class Device(object):
    """An object of the app that cells may see and change."""

    def __init__(self, name):
        self.name = name
        self.level = 1

    def raise_level(self):
        self.level += 1
        return self.level

    def __repr__(self):
        return "<Device %s level %d>" % (self.name, self.level)


counter = 0
settings = {"rate": 0.01, "mode": "calm"}
device = Device("pump")
stopping = threading.Event()


def count():
    """The app's own work: a thread that counts for as long as the app lives."""
    global counter
    while not stopping.wait(settings["rate"]):
        counter += 1


def say(text):
    print(text)


def say_in_thread(text):
    thread = threading.Thread(target=print, args=(text,), name="app worker")
    thread.start()
    thread.join()


def write(text):
    """Write around sys.stdout, to the descriptor."""
    os.write(1, text.encode("utf-8"))


def fail_in_thread(text):
    """An exception that nobody catches, in a thread of the app: its traceback goes where the app's stderr is."""

    def run():
        raise RuntimeError(text)

    thread = threading.Thread(target=run, name="app worker")
    thread.start()
    thread.join()


def evaluate(expression):
    """The value of an expression in the app's ``__main__``, as text."""
    return repr(eval(expression, globals()))


def state():
    """How the app finds itself.

    ``changed``: the names of FOUND that are not as found; ``planted``: our modules; ``main``: the names in __main__.
    """
    present = now()
    return {
        "changed": sorted(name for name in FOUND if FOUND[name] is not present[name] and FOUND[name] != present[name]),
        "planted": sorted(name for name in list(sys.modules) if name.startswith("flame_")),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "main": sorted(name for name in list(vars(sys.modules["__main__"]))),
        "main_is_ours": vars(sys.modules["__main__"]) is globals(),
        "counter": counter,
        "pid": os.getpid(),
    }


COMMANDS = {
    "say": say,
    "say_in_thread": say_in_thread,
    "write": write,
    "fail_in_thread": fail_in_thread,
    "evaluate": evaluate,
    "state": state,
}


def main():
    Pyro4.config.SERIALIZERS_ACCEPTED = {"pickle"}
    daemon = Pyro4.Daemon(host="localhost", port=0)
    if os.environ.get("APP_KEY"):
        daemon._pyroHmacKey = os.environ["APP_KEY"].encode("utf-8")
    uri = Pyro4.utils.flame.start(daemon)
    server = threading.Thread(target=daemon.requestLoop, name="flame")
    server.daemon = True
    server.start()
    counting = threading.Thread(target=count, name="app counter")
    counting.daemon = True
    counting.start()
    OUT.write("app uri: %s\n" % uri)
    OUT.flush()
    while True:
        try:
            line = sys.__stdin__.readline()
        except KeyboardInterrupt:
            OUT.write("app interrupted\n")  # a Stop in a notebook must never end up here
            OUT.flush()
            continue
        if not line:
            break
        request = json.loads(line)
        try:
            answer = COMMANDS[request[1]](*request[2:])
        except Exception as error:
            answer = {"error": repr(error)}
        OUT.write("answer %d: %s\n" % (request[0], json.dumps(answer)))
        OUT.flush()
    stopping.set()
    daemon.shutdown()


if __name__ == "__main__":
    main()
