"""Batch: several calls that are sent to the far side in one message.

    with pi.batch() as b:
        b["x"] = 3
        cwd = b.modules.os.getcwd()
        total = b.evaluate("x + 1")
    cwd.result(), total.result()

The calls are done in order, also after one that failed.  Each call returns a future, which has its value at the end of
the ``with`` block; the first error is raised there.
"""

from __future__ import annotations

import queue
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ..commands import library_rails as rails
from ..errors import FlameError, TargetError
from ..session.user import next_of
from .calls import Calls, Step

_AWAITED: dict[str, Any] = {"await": True}  # "await" is a keyword, so it cannot be written as an argument name


class Batch:
    """Collects calls and sends them together (see the module). Made by ``pi.batch()``."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._waiting: list[tuple[dict[str, Any], Sequence[Any], str, Future[Any]]] = []
        self._is_over = False

    def __repr__(self) -> str:
        return f"<batch of {len(self._waiting)} calls at {self._calls.name}>"

    def __enter__(self) -> Batch:  # noqa: PYI034
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._is_over = True
        waiting, self._waiting = self._waiting, []
        if kind is None:
            _send(self._calls, waiting)
            return
        for *_, future in waiting:  # the block raised: nothing is sent
            future.cancel()

    # -- what can be called --------------------------------------------------------------------------------------------

    def execute(self, code: str) -> Future[None]:
        """As `Remote.execute`."""
        return self._add(["exec", rails.hold(self._calls.session, code)], (), "none")

    def evaluate(self, expression: str) -> Future[Any]:
        """As `Remote.evaluate`."""
        return self._add(["eval", rails.hold(self._calls.session, expression)], ())

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As `Remote.run`, for a function that makes no callbacks."""
        rails.hold_function(self._calls.session, function)
        return self._add(["function", function], (("call", args, kwargs),), "auto", **_AWAITED)

    def push(self, values: Mapping[str, Any]) -> Future[None]:
        """As `Remote.push`."""
        return self._add(["names"], (("get", "update"), ("call", [dict(values)], {})), "none")

    @property
    def modules(self) -> Chain:
        """``b.modules.os.getcwd()`` adds a call of a module's function."""
        return Chain(self, ())

    @property
    def builtins(self) -> Chain:
        """``b.builtins.len("abc")`` adds a call of a built-in function."""
        return Chain(self, ("builtins",))

    def __getitem__(self, name: str) -> Future[Any]:
        return self._add(["names"], (("item", name),))

    def __setitem__(self, name: str, value: Any) -> None:
        self._add(["names"], (("set_item", name, value),), "none")

    def _add(self, root: list[Any], steps: Sequence[Step], mode: str = "auto", **options: Any) -> Future[Any]:
        if self._is_over:
            raise FlameError("this batch was sent already; begin another one with pi.batch()")
        request, parts = self._calls.prepared(root, steps, mode, None, **options)
        future: Future[Any] = Future()
        self._waiting.append((request, parts, mode, future))
        return future


class Chain:
    """A path to a module's function or a built-in function; calling it adds a call to the batch."""

    def __init__(self, batch: Batch, path: tuple[str, ...]) -> None:
        self._batch = batch
        self._path = path

    def __repr__(self) -> str:
        return f"<{'.'.join(self._path) or 'modules'} in a batch; call it>"

    def __getattr__(self, name: str) -> Chain:
        if name.startswith("__"):
            raise AttributeError(name)
        return Chain(self._batch, (*self._path, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Future[Any]:
        if not self._path:
            raise TargetError("name a function of a module: b.modules.os.getcwd()")
        root, path = (["builtins"] if self._path[0] == "builtins" else ["module", self._path[0]]), self._path[1:]
        return self._batch._add(root, (*(("get", name) for name in path), ("call", args, kwargs)))


def _send(calls: Calls, waiting: Sequence[tuple[dict[str, Any], Sequence[Any], str, Future[Any]]]) -> None:
    """Send all calls and wait for all, but for those that were cancelled; raises the first error. Ctrl-C interrupts
    those that are not done."""
    told: queue.SimpleQueue[None] = queue.SimpleQueue()
    batch = uuid.uuid4().hex
    sent: list[tuple[str, Future[Any], str, Future[Any]]] = []
    wanted = [one for one in waiting if one[-1].set_running_or_notify_cancel()]
    try:
        with calls.session.together():
            try:
                for request, parts, mode, future in wanted:
                    request_id = uuid.uuid4().hex
                    reply = calls.session.request("object", request_id, buffers=parts, batch=batch, **request)
                    sent.append((request_id, reply, mode, future))
                    reply.add_done_callback(lambda done: told.put(None))
            except BaseException:  # Ctrl-C, mostly; raised again, and nothing of the batch is sent
                _stop(calls, sent)
                raise
        for _ in sent:
            next_of(told)
    except BaseException as error:  # raised again, whatever it is; the open futures get it too
        _stop(calls, sent)
        for *_, future in wanted:
            if not future.done():
                future.set_exception(error)
        raise
    first: Exception | None = None
    for _, reply, mode, future in sent:
        try:
            future.set_result(calls.answer(reply.result(), mode))
        except Exception as error:  # the far side may raise anything
            future.set_exception(error)
            first = first or error
    if first is not None:
        raise first


def _stop(calls: Calls, sent: Sequence[tuple[str, Future[Any], str, Future[Any]]]) -> None:
    """Interrupt what is not done, the last first: what waits behind another then never begins."""
    for request_id, reply, _, _ in reversed(sent):
        if not reply.done():
            calls.session.interrupt(request_id)
