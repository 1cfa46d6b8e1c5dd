"""Answers requests about the state of a session, while cells run and never on the threads of cells.

``where`` and ``profile_end`` are answered at once, by the thread that received them.  ``top`` measures for a moment,
``profile`` for as long as it is told, ``watch`` evaluates an expression of the user's, ``memory`` may look at many
objects, and ``audit`` calls the program's own handlers of ``logging``.  These may take long, so each is answered on a
thread of its own.
"""

import logging
import os

from ... import threads
from ...output import streams
from ...profile.sampler import Sampler
from . import stacks, top

KINDS = ("where", "watch", "top", "profile", "profile_end", "memory", "audit")
# Seconds that a watch waits for a shell that is still starting.
START_PATIENCE = 10.0


def begin(host, request):
    """Start answering a request; ``host`` is the session core. Returns at once."""
    if request["kind"] == "where":
        host.reply(request, safely(lambda: stacks.where(host)))
        return
    if request["kind"] == "audit":  # what the program's handlers print is no cell's output
        threads.start("audit", lambda: host.reply(request, safely(lambda: audit(request))))
        return
    if request["kind"] == "profile_end":
        sampler = host.samplers.get(request["profile"])
        if sampler is not None:
            sampler.stop()
        host.reply(request, {"status": "ok"})
        return
    work = {
        "watch": lambda: _watch(host, request),
        "top": lambda: top.top(os.getpid()),
        "memory": lambda: _memory(host, request),
    }.get(request["kind"]) or _profile(host, request)
    threads.start(request["kind"], _answer, host, request, work)


def _answer(host, request, work):
    # What the expression prints goes to the cell in which it is watched.
    streams.set_current(streams.Cell(request.get("cell") or request["id"], host))
    host.reply(request, safely(work))


def _watch(host, request):
    """``{"status", "data", "metadata"}`` of an expression's value, or the error that it raised."""
    if not host.wait_started(START_PATIENCE):
        raise RuntimeError("the session is still starting")
    return host.shell.user_expressions({"watch": request["expression"]})["watch"]


def audit(request):
    """Note in the program's own log, by ``logging``, that a cell runs: whose, its hash and how it begins."""
    entry = request["entry"]
    told = [str(entry.get(name, ""))[:200] for name in ("user", "session", "hash", "first")]
    logging.getLogger("remote_flame").info("a notebook's cell: user %s, session %s, %s: %s", *told)
    return {"status": "ok"}


def _memory(host, request):
    if request["what"] != "holders":
        return host.memory.look(request["what"])
    names = host.namespace.__dict__
    return host.memory.who_holds(eval(compile(request["expression"].strip(), "<memory>", "eval"), names), names)


def _profile(host, request):
    """A function that takes a profile, and returns the content of its reply. The fields of the request are those of a
    Sampler, and ``seconds``. A profile_end that comes next finds the sampler."""
    wish = {name: request[name] for name in ("scope", "mode", "rate", "thread", "request", "idle") if name in request}
    names = host.namespace.__dict__
    try:
        sampler = host.samplers[request["id"]] = Sampler(
            lambda: _lanes(host),
            lambda frame: frame.f_globals is names,
            lambda file: host.shell and host.shell.cell_name(file),
            **wish,
        )
    except ValueError as error:
        refused = {"status": "error", "ename": "ValueError", "evalue": str(error), "traceback": []}
        return lambda: refused

    def take():
        try:
            sampler.run(request["seconds"])
        finally:
            del host.samplers[request["id"]]
        return sampler.content()

    return take


def _lanes(host):
    """See ``Sampler``; None when the session has ended."""
    return (
        None
        if host.closed
        else {
            lane.thread_id: (None if lane.request is None else lane.request["id"], lane.awaits)
            for lane in list(host.lanes.values())
        }
    )


def safely(work):
    """The result of ``work()``, which is the content of a reply; if it raises, the content of an error reply."""
    try:
        return work()
    except BaseException as e:  # whoever asks waits for an answer
        return {"status": "error", "ename": type(e).__name__, "evalue": str(e), "traceback": []}
