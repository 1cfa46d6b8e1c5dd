"""The agent's mini shell by itself, on whatever Python runs this: no server, no package flame_kernel.

    python mini_shell.py AGENT_FOLDER < requests.json > answers.json

A request is ``["run", {code, silent, store_history}]``, ``["complete", [code, cursor]]``, ``["inspect", [code, cursor,
detail]]``, ``["expressions", {…}]``, ``["eval", expression]`` (over ``shell``, ``host``, ``ns``) or ``["interrupt",
text]`` (a KeyboardInterrupt in the main thread, when the next run has printed that text).
"""

import asyncio
import importlib.util
import io
import json
import os
import signal
import sys
import threading
import time
import types


def load(folder):
    name = "flame_agent_test"
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    return name


class Host:
    """As much of the session core as a shell sees."""

    closed = False
    session_id = "ab12"

    def __init__(self, package):
        self.redirects = {}
        self.events = []
        self.pid = os.getpid()
        self.place = importlib.import_module(package + ".session.places").Process(self.session_id)
        self.namespace = types.ModuleType("flame_session_ab12")
        sys.modules["flame_session_ab12"] = self.namespace

    def publish(self, msg_type, content, metadata=None, buffers=None, clean=None):
        self.events.append([msg_type, json.loads(json.dumps(content))])

    def write(self, cell, name, text):
        getattr(sys, name).write(text)

    def flush(self):
        """Nothing of it leaves this process before its end."""

    def input(self, prompt="", password=False):
        raise EOFError


def interrupt_when_printed(text, out):
    while text not in out.getvalue():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def main():
    out = sys.stdout
    package = load(sys.argv[1])
    runner = importlib.import_module(package + ".shell.mini")
    streams = importlib.import_module(package + ".output.streams")
    host = Host(package)
    streams.set_current(streams.Cell(None, host))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    host.shell = shell = runner.MiniShell(host)
    answers, wait = [], None
    for what, args in json.load(sys.stdin):
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        host.events = []
        try:
            if what == "run":
                if wait is not None:
                    threading.Thread(target=interrupt_when_printed, args=(wait, sys.stdout), daemon=True).start()
                answer = loop.run_until_complete(shell.run_cell(cell_id=None, **args))
                wait = None
            elif what == "complete":
                answer = shell.complete(*args)
            elif what == "inspect":
                answer = shell.inspect(*args)
            elif what == "expressions":
                answer = shell.user_expressions(args)
            elif what == "interrupt":
                answer, wait = None, args
            else:
                answer = eval(args, {"shell": shell, "host": host, "ns": shell.user_ns, "sys": sys})
        except BaseException as e:
            answer = {"raised": repr(e)}
        answers.append([answer, host.events, sys.stdout.getvalue(), sys.stderr.getvalue()])
        sys.stdout, sys.stderr = out, sys.__stderr__
    shell.close()
    loop.close()
    json.dump(answers, out)


if __name__ == "__main__":
    main()
