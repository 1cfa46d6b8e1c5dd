"""Requests about the state of a session. They are answered while cells run, and never on the cells' threads.

``where`` is answered at once, by the thread that received it.  ``top`` measures for a moment, and ``watch`` evaluates
an expression of the user's, which may take long, so each of these is answered on a thread of its own.
"""

import os

from .. import threads
from ..output import streams
from . import stacks, top

KINDS = ("where", "watch", "top")
# Seconds that a watch waits for a shell that is still starting.
START_PATIENCE = 10.0


def begin(host, request):
    """Start answering a request; ``host`` is the session core. Returns at once."""
    if request["kind"] == "where":
        host.reply(request, safely(lambda: stacks.where(host)))
        return
    work = {"watch": lambda: _watch(host, request), "top": lambda: top.top(os.getpid())}[request["kind"]]
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


def safely(work):
    """The result of ``work()``, which is the content of a reply; if it raises, the content of an error reply."""
    try:
        return work()
    except BaseException as e:  # whoever asks waits for an answer
        return {"status": "error", "ename": type(e).__name__, "evalue": str(e), "traceback": []}
