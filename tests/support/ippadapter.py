"""ipyparallel's Client over `flame.group`: its engines are sessions on a stock server, and run nothing of ipyparallel.

View, AsyncResult, errors and magics stay ipyparallel's own; what they send is done by executors of groups.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import signal
import threading
import types
import uuid
from concurrent.futures import Future
from typing import Any

import ipyparallel as ipp
from ipyparallel import error, util
from ipyparallel import serialize as ipp_serialize
from ipyparallel.client import remotefunction
from ipyparallel.client import view as ipp_view
from ipyparallel.client.client import ExecuteReply
from ipyparallel.client.futures import multi_future

import flame

_OVERWRITTEN = re.compile(r".*\r(?=[^\n])")


class Kept:
    """In place of ipyparallel's pickles: an argument as it is."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj


for place in (ipp_view, remotefunction, ipp_serialize, ipp_serialize.serialize):
    place.PrePickled = Kept


class Engine:
    """A session as an engine: its calls are made one after the other, and those that wait can be cancelled."""

    def __init__(self, number: int, remote: flame.Remote) -> None:
        self.id, self.uuid, self.remote = number, uuid.uuid4().hex, remote
        self.alive = True
        self.asked = 0  # when, of all turns, a view that balances has chosen it last
        self.executor = flame.group([remote]).executor()
        self.given: dict[str, Future[Any]] = {}  # by message id, what is not done
        self.show: Any = None
        remote.show = lambda event: self.show and self.show(event)
        remote.cell("%colors nocolor", lambda event: None, silent=True).result(20)

    def poll(self) -> int | None:
        """As a launcher of a process has it."""
        return None if self.alive else 1


_turns = itertools.count(1)


class Records:
    """What ipyparallel's hub knows: the results of all clients."""

    def __init__(self) -> None:
        self.done: dict[str, tuple[Any, dict[str, Any]]] = {}
        self.engines: list[Engine] = []
        self.clients: list[FlameClient] = []


records = Records()


class _Loop:
    """In place of the client's I/O loop: callbacks that delay what is sent."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def add_callback(self, function: Any, *args: Any) -> None:
        self._todo.put(lambda: function(*args))

    def run(self) -> None:
        while not self._todo.empty():
            self._todo.get()()


_Client = ipp.Client  # the plugin gives the name to ours


class FlameClient(_Client):  # type: ignore[misc,valid-type]
    """ipyparallel's client; it has no sockets and no threads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self.__dict__.get("by_id") is not None:  # made already: somebody was given this one as a new one
            return
        super(_Client, self).__init__()
        self._engines = util.ReverseDict()
        stream = types.SimpleNamespace(closed=lambda: False)
        self._mux_stream = self._task_stream = self._control_stream = self._query_stream = stream
        self._broadcast_stream = stream
        self.by_id: dict[int, Engine] = {}
        for engine in records.engines:
            if engine.alive:
                self.add(engine)
        self._connected, self._closed = True, False
        self.session = types.SimpleNamespace(session="flame", buffer_threshold=1024, item_threshold=64)
        self._io_loop = _Loop()
        records.clients.append(self)

    def __del__(self) -> None:
        """There is nothing to close."""

    def add(self, engine: Engine) -> None:
        self.by_id[engine.id] = engine
        self._engines[engine.id] = engine.uuid
        self._ids.append(engine.id)
        self._outstanding_dict[engine.uuid] = set()

    @property
    def ids(self) -> list[int]:
        for known in [known for known, engine in self.by_id.items() if not engine.alive]:
            del self.by_id[known]
            self._ids.remove(known)
            self._engines.pop(known)
        return list(self._ids)

    def close(self, linger: Any = None) -> None:
        self._closed = True

    def spin(self) -> None:
        """Results come by themselves."""

    def _engine(self, ident: Any) -> Engine:
        ident = ident[-1] if isinstance(ident, list) else ident
        ident = ident.decode() if isinstance(ident, bytes) else ident
        return next(engine for engine in self.by_id.values() if engine.uuid == ident)

    # -- one call ------------------------------------------------------------------------------------------------------

    def _future(self, kind: str, label: Any, track: bool) -> Any:
        known = uuid.uuid4().hex
        self.outstanding.add(known)
        self.history.append(known)
        header = {"msg_type": kind, "msg_id": known}
        futures = self.create_message_futures(known, header, async_result=True, track=track, label=label)

        def clean(done: Any) -> None:
            for cache in (self.results, self._futures, self._output_futures, self.metadata):
                cache.pop(known, None)

        multi_future(futures).add_done_callback(clean)
        return futures[0]

    def _take(self, future: Any, about: dict[str, Any], event: dict[str, Any]) -> None:
        """An output of a call, as ipyparallel's client takes it from the engine."""
        kind, content = event["type"], event["content"]
        if kind == "stream":
            about[content["name"]] = _OVERWRITTEN.sub("", (about[content["name"]] or "") + content["text"])
        elif kind == "display_data":
            about["outputs"].append(content)
        elif kind == "execute_result":
            about["execute_result"] = content
        elif kind == "error":
            content = dict(content, engine_info=self._about(future, about))
            about["error"] = self._unwrap_exception(dict(content, traceback="\n".join(content["traceback"])))
        else:
            return
        message = {"header": {"msg_type": kind}, "parent_header": {"msg_id": future.msg_id}, "metadata": {}}
        for callback in future.iopub_callbacks:
            callback(dict(message, content=dict(content)))

    @staticmethod
    def _about(future: Any, about: dict[str, Any]) -> dict[str, Any]:
        method = future.header["msg_type"].partition("_")[0]
        return {"engine_id": about["engine_id"], "engine_uuid": about["engine_uuid"], "method": method}

    def _finish(self, engine: Engine, future: Any, about: dict[str, Any], result: Any, status: str) -> None:
        about["completed"] = about["received"] = util.utcnow()
        about["status"] = status
        engine.given.pop(future.msg_id, None)
        self.outstanding.discard(future.msg_id)
        for known in self._outstanding_dict.values():
            known.discard(future.msg_id)
        self.results[future.msg_id] = result
        records.done[future.msg_id] = (result, dict(about))
        output = future.output
        future.set_result(result)
        if not output.done():
            output.set_result(None)

    def _failed(self, engine: Engine, future: Any, about: dict[str, Any], raised: Exception) -> Exception:
        """The error that ipyparallel has for what a call has raised."""
        name, traceback = getattr(raised, "ename", None) or type(raised).__name__, getattr(raised, "traceback", None)
        if isinstance(raised, flame.SessionGone) or engine.remote.session.gone is not None:
            engine.alive, name = False, "EngineError"
        lines = [str(line) for line in traceback] if isinstance(traceback, (list, tuple)) else [repr(raised)]
        return error.RemoteError(name, str(raised), "\n".join(lines), self._about(future, about))

    def _submit(self, engine: Engine, future: Any, work: Any, track: bool = False, before: Any = ()) -> Any:
        about = self.metadata[future.msg_id]
        about.update({"engine_id": engine.id, "engine_uuid": engine.uuid, "msg_id": future.msg_id})
        self._outstanding_dict[engine.uuid].add(future.msg_id)

        def give(remote: flame.Remote) -> Any:
            for one in before:  # it was given before, so it is not behind this one
                one.wait(60)
            about["started"] = util.utcnow()
            if track and not future.tracker.done():
                self._io_loop.run()
                future.tracker.set_result(None)
            engine.show = lambda event: self._take(future, about, event)
            return work(future, about)

        def done(given: Future[Any]) -> None:
            if given.cancelled():
                self._finish(engine, future, about, error.TaskAborted(future.msg_id), "aborted")
                return
            raised = given.exception()
            if raised is None and not isinstance(given.result(), error.RemoteError):
                self._finish(engine, future, about, given.result(), "ok")
                return
            if raised is None or kind == "execute_request":  # an engine does not go on after a cell that has failed
                for waiting in list(engine.given.values()):
                    waiting.cancel()
            failed = given.result() if raised is None else self._failed(engine, future, about, raised)
            self._finish(engine, future, about, failed, "error")

        kind = future.header["msg_type"]
        given = engine.executor.give(give)
        engine.given[future.msg_id] = given
        given.add_done_callback(done)
        return future

    # -- what views call -----------------------------------------------------------------------------------------------

    def send_execute_request(
        self,
        socket: Any,
        code: str,
        silent: bool = True,
        metadata: Any = None,
        ident: Any = None,
        message_future_hook: Any = None,
    ) -> Any:
        if not isinstance(code, str):
            raise TypeError(f"code must be text, not {type(code)}")
        engine = self._engine(ident)

        def work(future: Any, about: dict[str, Any]) -> Any:
            sink = lambda event: self._take(future, about, event)  # noqa: E731
            reply = engine.remote.cell(code, sink, silent=silent, store_history=not silent).result()
            if reply["status"] == "ok":
                return ExecuteReply(
                    future.msg_id, dict(reply, execution_count=reply.get("execution_count") or 0), about
                )
            if reply.get("ename") == "SessionDied":
                engine.alive = False
                return error.RemoteError("EngineError", reply["evalue"], "", self._about(future, about))
            lines = "\n".join(reply.get("traceback") or [])
            return error.RemoteError(reply["ename"], reply["evalue"], lines, self._about(future, about))

        return self._submit(engine, self._future("execute_request", (metadata or {}).get("label"), False), work)

    def send_apply_request(
        self,
        socket: Any,
        f: Any,
        args: Any = None,
        kwargs: Any = None,
        metadata: Any = None,
        track: bool = False,
        ident: Any = None,
        message_future_hook: Any = None,
    ) -> Any:
        if self._closed:
            raise RuntimeError("Client cannot be used after its sockets have been closed")
        f, args, kwargs = (
            _plain(f),
            [_plain(one) for one in args or []],
            {k: _plain(v) for k, v in (kwargs or {}).items()},
        )
        if not callable(f) and not isinstance(f, ipp.Reference):
            raise TypeError(f"f must be callable, not {type(f)}")
        metadata = metadata or {}
        engine = self._engine(ident) if ident else self._balanced(metadata)
        future = self._future("apply_request", metadata.get("label"), track)
        before = [self._futures[known] for known in metadata.get("after") or () if known in self._futures]
        if message_future_hook is not None:
            message_future_hook(future)

        def work(future: Any, about: dict[str, Any]) -> Any:
            there = _There(engine.remote)
            if isinstance(f, ipp.Reference):
                return there.value(f)(*there.value(args), **there.value(kwargs))
            return engine.remote.run(f, *there.value(args), **there.value(kwargs))

        return self._submit(engine, future, work, track, before)

    def _balanced(self, metadata: dict[str, Any]) -> Engine:
        """The engine with the least to do; of several the one that was asked longest ago."""
        targets = [getattr(one, "decode", lambda one=one: one)() for one in metadata.get("targets") or ()]
        engines = [engine for engine in self.by_id.values() if engine.alive]
        for known in metadata.get("follow") or ():
            targets += [engine.uuid for engine in engines if engine.id == records.done[known][1]["engine_id"]]
        some = [engine for engine in engines if engine.uuid in targets]
        found = min(some or engines, key=lambda engine: (len(self._outstanding_dict[engine.uuid]), engine.asked))
        found.asked = next(_turns)
        return found

    def _send_control_request(self, targets: Any, msg_type: str, content: dict[str, Any], block: Any) -> None:
        cleared: list[Future[Any]] = []
        for engine in [self.by_id[known] for known in self._build_targets(targets)[1]]:
            if msg_type == "abort_request":
                for known in content["msg_ids"]:
                    if known in engine.given:
                        engine.given[known].cancel()
            elif msg_type == "clear_request":
                clear = "get_ipython().reset(False)"
                cleared.append(
                    engine.executor.give(lambda remote, code=clear: remote.cell(code, lambda event: None).result(20))
                )
            elif msg_type == "signal_request":
                number = _signal(content["sig"])
                if number == signal.SIGINT:
                    engine.remote.interrupt()
                elif number:
                    os.kill(engine.remote.session.ready.result()["pid"], number)
        for one in cleared if block else ():
            one.result(20)

    def result_status(self, msg_ids: Any, status_only: bool = True) -> dict[str, Any]:
        """Results of other clients too, as the hub gives them."""
        asked = self._msg_ids_from_jobs(msg_ids)
        found: dict[str, Any] = {"completed": [], "pending": []}
        for known in asked:
            found["completed" if known in self.results or known in records.done else "pending"].append(known)
            if known in records.done and not status_only:
                result, about = records.done[known]
                self.results[known] = found[known] = result
                self.metadata[known].update(about)
        return found


class _There:
    """Arguments as the engine has them: references are its own names, and functions go there."""

    def __init__(self, remote: flame.Remote) -> None:
        self._remote = remote

    def value(self, one: Any) -> Any:
        if isinstance(one, ipp.Reference):
            return self._remote.evaluate(one.name, ref=True)
        if isinstance(one, types.FunctionType):
            return self._remote.run(_giver(one))
        if type(one) in (list, tuple):
            return type(one)(self.value(each) for each in one)
        if type(one) is dict:
            return {key: self.value(each) for key, each in one.items()}
        return one


def _giver(function: Any) -> Any:
    def give() -> Any:
        return function

    return give


def _plain(one: Any) -> Any:
    while isinstance(one, Kept):
        one = one.obj
    return one


def _signal(given: Any) -> int:
    if isinstance(given, str):
        return int(getattr(signal, given))
    return int(signal.Signals(given)) if given else 0


_growing = threading.Lock()


def add_engines(location: str, count: int, total: bool = False) -> list[Engine]:
    """More engines, for all clients that are open; with ``total`` as many as are lacking to ``count``."""
    with _growing:
        alive = sum(engine.alive for engine in records.engines)
        count = max(count - alive, 0) if total else count
        if not count:
            return []
        group = flame.group(f"{location}*{count}", shell="ipython")
        made = [Engine(len(records.engines) + at, remote) for at, remote in enumerate(group)]
        records.engines += made
        for client in records.clients:
            for engine in made:
                if not client._closed:
                    client.add(engine)
        groups.append(group)
        return made


groups: list[Any] = []


def end() -> None:
    """Close all sessions."""
    for group in groups:
        group.close()
    groups.clear()
    records.engines.clear()
    records.clients.clear()
