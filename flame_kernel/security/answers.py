"""Checks the shape of everything that the agent answers: one table for all answers, events and replies.

A server may send any JSON, but code that reads an answer relies on its fields. So every field that is read is listed
here with its type and range; an answer that does not match is an `UnsafeAnswer`. Fields that are not listed may be
any JSON of limited depth: only a front end reads them.

    result   the answer to an op (the docstring of ``agent/handle.py`` lists them)
    events   a decoded batch of the log: the content of each event
    reply    the content of a ``…_reply`` event, by the request that it answers
    files    a control message of a transfer (``agent/remote/files.py``)

`shapes.py` has the checks that the tables are made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import MAX_NAME, UnsafeAnswer
from ..terminal import one_line
from .shapes import (
    MAX_LINE,
    Check,
    WrongShape,
    either,
    flag,
    listing,
    mapping,
    maybe,
    moment,
    number,
    one_of,
    record,
    row,
    table,
    text,
    tree,
    whole,
)

_name, _line, _any, _count = text(MAX_NAME), text(MAX_LINE), tree, whole()
_lines = listing(tree, 100_000)
_VERSION = listing(whole(0, 10_000), 3, 3)
_size = whole(0, (1 << 62) - 1)

# -- the answers to ops ----------------------------------------------------------------------------------------------

_FACTS: dict[str, Check] = {
    "host": _name,
    "pid": _count,
    "python": _name,
    "implementation": _name,
    "platform": _name,
    "executable": _line,
    "cwd": _line,
    "place": _name,
    "shell": _name,
    "ipython": maybe(_name),
    "shell_reason": maybe(_line),
    "no_debugger": maybe(_line),
}
_READY = record({}, _FACTS)
_HELLO: dict[str, Check] = {
    "boot": _name,
    "host": _name,
    "pid": _count,
    "python": _VERSION,
    "servertype": _name,
}
_HELLO_TOO: dict[str, Check] = {"protocol": _count, "machine": _name, "bare": flag, "main": _line}
_HELLO_TOO |= {"hashes": table(_count, 10)}
_RUNNING = record({"request": _name}, {"code": _line, "started": maybe(moment)})
_INPUT = record({"input_id": _count}, {"prompt": text(), "password": flag, "request": maybe(_name)})
_SESSION = record(
    {"session": text(MAX_LINE)},
    {
        "life": _name,
        "place": _name,
        "client": _line,
        "notebook": _line,
        "pid": maybe(_count),
        "started": maybe(moment),
        "age": number,
        "state": _name,
        "code": text(),
        "running_for": maybe(number),
        "waiting": _size,
        "attached": flag,
        "alone": number,
        "idle_left": number,
        "spare": maybe(_count),
    },
)
_CELL = record(
    {"request": _name},
    {
        "count": maybe(_count),
        "code": _line,
        "started": maybe(moment),
        "ended": maybe(moment),
        "status": maybe(_name),
        "bytes": _size,
        "complete": flag,
    },
)
_BATCH: dict[str, Check] = {"events": listing(mapping)}
_PIECE = record({"piece": record({"mark": _name, "at": _size, "size": _size})})


def _poll(value: Any, name: str) -> None:
    """A batch of events, or a piece of one."""
    (_PIECE if type(value) is dict and "piece" in value else record(_BATCH))(value, name)


_DONE = record({}, {"new": flag, "taken": flag, "closed": flag, "detached": flag, "done": flag})
_BYTES = maybe(number)
_GPU = {"name": _name, "total": _BYTES, "used": _BYTES, "mine": _BYTES}
_GPUS = listing(record(_GPU, {"busy": _BYTES, "mine_busy": _BYTES}), 64)
_CHECKUP = record(
    {},
    {
        "python": _VERSION,
        "implementation": _name,
        "pyro": _name,
        "workers": maybe(listing(_count, 2, 2)),
        "packages": table(maybe(_name), 100),
        "folder": _line,
        "free": _size,
        "journal": tree,
        "gpus": _GPUS,
        "spare": maybe(_count),
    },
)

RESULTS: dict[str, Check] = {
    "hello": record(_HELLO, {**_HELLO_TOO, "ticket": _name, "newest": _count}),
    "checkup": _CHECKUP,
    "open": record(
        {**_HELLO, "epoch": _count, "fresh": flag, "newest": _count, "place": _name, "ready": maybe(_READY)},
        {
            **_HELLO_TOO,
            "acknowledged": _count,
            "running": listing(_RUNNING, 10_000),
            "inputs": listing(_INPUT, 10_000),
        },
    ),
    "submit": _DONE,
    "submits": _DONE,
    "do": record({**_BATCH, "new": flag}),
    "read": record({}),
    "portion": record({"come": _size}),
    "poll": _poll,
    "interrupt": record({}, {"done": _name}),
    "answer": _DONE,
    "detach": _DONE,
    "close": _DONE,
    "kill": _DONE,
    "sessions": listing(_SESSION, 100_000),
    "files": record({"talk": _name}),
    "call_files": record({}),
    "ask": record({"asked": _name}),
    "asked": record({"state": one_of("waiting", "granted", "refused")}),
    "consent": _DONE,
    "watch": record({**_BATCH, "newest": _count}, {"skipped": _count}),
    "cells": listing(_CELL, 100_000),
    "replay": record({**_BATCH, "done": flag}),
}

_BATCHES = ("do", "poll", "watch", "replay")
# What the error that refuses an answer calls it.
_WORDS = {"hello": "an agent that does not say what it is", "open": "an agent that does not say what it is"}


def result(op: str, value: Any, location: str) -> Any:
    """Return the answer to an op; UnsafeAnswer if the agent would not answer so."""
    try:
        if op not in _BATCHES:  # their events are checked one by one
            tree(value, "the answer")
        RESULTS.get(op, tree)(value, "the answer")
    except WrongShape as error:
        words = _WORDS.get(op, f"an answer of the wrong shape to {op}")
        raise UnsafeAnswer(location, f"{words} ({error})") from None
    return value


# -- events ----------------------------------------------------------------------------------------------------------

_DATA: dict[str, Check] = {"data": table(tree)}
_DISPLAY: dict[str, Check] = {"metadata": table(tree), "transient": table(tree)}
_COMM: dict[str, Check] = {"comm_id": text(MAX_LINE)}
# Checks by type of event. Nothing is read from events of other types.
EVENTS: dict[str, Check] = {
    "stream": record({"name": _name, "text": text()}),
    "display_data": record(_DATA, _DISPLAY),
    "update_display_data": record({}, {**_DATA, **_DISPLAY}),
    "execute_result": record(_DATA, {**_DISPLAY, "execution_count": maybe(_count)}),
    "error": record({}, {"ename": text(), "evalue": text(), "traceback": _lines}),
    "clear_output": record({}, {"wait": tree}),
    "input_request": _INPUT,
    "input_cancelled": record({"input_id": _count}),
    "callback_request": record({"callback_id": _count, "callback": _count, "what": one_of("call", "next")}),
    "hot_request": record({"hot_id": _count, "what": one_of("module", "data"), "name": text(1000)}),
    "comm_open": record(_COMM, {"target_name": tree}),
    "comm_msg": record(_COMM),
    "comm_close": record(_COMM),
    "debug_event": record({}, {"type": _name, "event": _name, "body": table(tree), "seq": _count}),
    "takeover_request": record({"id": _name, "client": text()}),
}


def events(batch: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check decoded events of the log, and return them.

    An event with content of the wrong shape is replaced by a line on stderr that says so; its cell goes on. For
    ``ready``, the valid fields are kept, because everything waits for that event. Replies are checked by ``reply``.
    """
    return [_event(event) for event in batch]


def numbers(batch: Iterable[dict[str, Any]]) -> None:
    """Raise WrongShape if an event has no valid number."""
    for event in batch:
        _count(event.get("number"), "the number of an event")


def _event(event: dict[str, Any]) -> dict[str, Any]:
    kind, content = event["type"], event["content"]
    if kind.endswith("_reply"):
        return event
    if kind == "ready":
        return dict(event, content={name: one for name, one in content.items() if _is_right(_FACTS.get(name), one)})
    if kind == "stream" and _is_text(content) and "metadata" not in event:
        return event  # the most frequent case
    try:
        tree(content, "it")
        check = EVENTS.get(kind)
        if check is not None:
            check(content, "it")
        if "metadata" in event:
            tree(event["metadata"], "its metadata")
    except WrongShape as error:
        what = one_line(kind, 40)
        sentence = f"[refused an event ({what}) of the wrong shape: {error}]\n"
        note = {"type": "stream", "content": {"name": "stderr", "text": sentence}}
        return note | {name: event[name] for name in ("request", "number") if name in event}
    return event


def _is_text(content: dict[str, Any]) -> bool:
    name = content.get("name")
    return type(name) is str and len(name) <= MAX_NAME and type(content.get("text")) is str


def _is_right(check: Check | None, value: Any) -> bool:
    if check is None:
        return False
    try:
        check(value, "it")
    except WrongShape:
        return False
    return True


# -- replies ---------------------------------------------------------------------------------------------------------

_ERROR = record({}, {"ename": text(), "evalue": text(), "traceback": _lines, "execution_count": maybe(_count)})
_RICH = {**_DATA, "metadata": table(tree)}
_EXECUTED: dict[str, Check] = {
    "execution_count": maybe(_count),
    "payload": listing(tree, 10_000),
    "user_expressions": table(table(tree)),
    "ename": text(),
    "evalue": text(),
    "traceback": _lines,
    "exit_status": maybe(whole(0, 255)),
}
_HELD = record(
    {"id": _name, "kind": one_of("object", "module", "class", "routine"), "class": text(500)},
    {"protocol": listing(text(40), 200), "name": text(500), "module": text(500), "parts": whole()},
)


def _entry(value: Any, name: str) -> None:
    """An item: the number of its parts, the description of an object that stays on the far side, or both."""
    (whole() if type(value) is int else _HELD)(value, name)


_ITEMS = record(
    {"done": flag, "slow": flag, "entries": maybe(listing(_entry, 100_000))},
    {"parts": _count, "iterator": _HELD, "error": _ERROR},
)
_VALUE = either(
    "how",
    {
        "none": record({}),
        "value": record({}, {"held": _HELD}),
        "held": record({"held": _HELD}),
        "pieces": record({"ticket": _name, "sizes": listing(_size, 2_000_000)}, {"held": _HELD}),
        "items": _ITEMS,
    },
)
_USAGE: dict[str, Check] = {
    "hostname": _line,
    "pid": _count,
    "cpu_count": maybe(_count),
    **dict.fromkeys(("kernel_cpu", "kernel_memory", "host_cpu_percent"), _BYTES),
    "gpus": _GPUS,
    "host_virtual_memory": table(_BYTES, 100),
}
_LEFT_OUT = record({"left_out": _count})
_CALL = record({"file": text(), "line": _count, "name": text(), "source": maybe(text())})


def _frame(value: Any, name: str) -> None:
    """A call in a stack, or the number of calls that are left out."""
    mapping(value, name)
    (_LEFT_OUT if "left_out" in value else _CALL)(value, name)


_STACK = record(
    {"kind": _name, "name": text(), "frames": listing(_frame, 10_000), "state": maybe(_name)},
    {"since": maybe(number)},
)
_WHERE = record(
    {"pid": _count, "place": _name, "stacks": listing(_STACK, 10_000)}, {"note": maybe(_line), "left_out": _count}
)
_THREAD = record({"name": text(), "id": _count, "cpu": number})
_CHILD = record({"name": text(), "pid": _count, "cpu": number, "memory": _BYTES})
_TOP = record(
    {"pid": _count, "host": _name},
    {
        "cpus": maybe(_count),
        "load": listing(number, 3),
        "cpu": _BYTES,
        "memory": _BYTES,
        "machine_memory": listing(_BYTES, 2, 2),
        "age": _BYTES,
        "thread_count": _count,
        "busy_count": _count,
        "threads": listing(_THREAD, 1000),
        "child_count": _count,
        "children": listing(_CHILD, 1000),
        "file_count": _count,
        "files": listing(text(), 1000),
        "others": table(_count, 1000),
        "gpus": _GPUS,
    },
)

_PROFILE = record(
    {
        "pid": _count,
        "scope": _name,
        "mode": _name,
        "seconds": number,
        "samples": _count,
        "cost": number,
        "note": _line,
        "idle": listing(text(300), 200),
        "threads": listing(text(300), 10_000),
        "functions": listing(row(text(300), text(300)), 100_000),
        "frames": listing(row(_count, whole(0, 1 << 31)), 200_000),
        "stacks": listing(row(_count, number, listing(_count, 300)), 10_000),
        "sources": listing(row(_count, text(300)), 200),
        "left_out": number,
    }
)

_NODE, _EDGE = row(text(40), text(300), maybe(_size), text(40)), row(_count, _count, text(40), text(300))
_HOLDERS = record({"nodes": listing(_NODE, 100, 1), "edges": listing(_EDGE, 300), "note": text(300)})
_MEMORY = record(
    {
        "pid": _count,
        "tracing": flag,
        "traced": _size,
        "overhead": _size,
        "seconds": number,
        "lines": listing(row(text(300), whole(0, 1 << 31), _size, number, _size, text(300)), 200),
        "types": listing(row(text(300), _count, _size), 200),
        "objects": _count,
        "holders": maybe(_HOLDERS),
    }
)


_SERVED = {"modules": listing(row(text(1000), _size, _count), 100_000), "own": listing(text(1000), 1000)}
_HOT = record({}, {**_SERVED, "failed": table(text(1000), 100_000), "wanted": flag, "forgotten": _count})


def _replied(ok: Check, **more: Check) -> Check:
    """A reply whose ``status`` says whether it is a result or an error."""
    return either("status", {"ok": ok, "error": _ERROR, **more})


_REFUSED = record({"message": text()}, {"why": text(40)})
_NO_VALUE = {"gone": record({}), "refused": _REFUSED}
# By the kind of the request; for requests about objects also by operation (``object.OP``).
REPLIES: dict[str, Check] = {
    "execute": either("status", dict.fromkeys(("ok", "error", "aborted"), record({"status": _name}, _EXECUTED))),
    "comm": record({}, {"status": _name}),
    "complete": _replied(
        record(
            {"matches": listing(text(), 100_000), "cursor_start": _count, "cursor_end": _count},
            {"metadata": table(tree)},
        )
    ),
    "inspect": _replied(record({"found": flag}, {"data": table(tree), "metadata": table(tree)})),
    "comm_info": _replied(record({"comms": table(record({"target_name": text(MAX_LINE)}))})),
    "comm_announce": _replied(record({})),
    "usage": record({}, {**_USAGE, "status": _name, "ename": text(), "evalue": text(), "traceback": _lines}),
    "cwd": _replied(record({"cwd": _line})),
    "open_lane": _replied(record({})),
    "close_lane": _replied(record({})),
    "send_module": _replied(record({})),
    "get_module": _replied(record({"source": text()})),
    **{f"hot.{op}": _replied(_HOT) for op in ("start", "update", "stop", "list", "answer")},
    "hot.source": _replied(record({"source": text()})),
    "hot.fix": _replied(record({"number": _count, "notes": listing(text(1000), 100)})),
    "hot.unfix": _replied(record({"undone": listing(row(_count, text(1000)), 10_000)})),
    "hot.fixes": _replied(record({"fixes": listing(row(_count, text(1000), _name, text(), number), 10_000)})),
    "debug": record({}, {"type": _name, "command": _name, "success": flag, "body": tree, "evalue": text()}),
    "where": _replied(_WHERE),
    "top": _replied(_TOP),
    "profile": _replied(_PROFILE),
    "profile_end": _replied(record({})),
    "memory": _replied(_MEMORY),
    "audit": _replied(record({})),
    "watch": _replied(record({}, _RICH)),
    "object": _replied(_VALUE, **_NO_VALUE),
    "object.piece": _replied(record({}), **_NO_VALUE),
    "object.stage": _replied(record({}), **_NO_VALUE),
    "object.staged": _replied(record({"come": _size}), **_NO_VALUE),
    "object.drop": _replied(record({}), **_NO_VALUE),
    "object.release": _replied(record({}), **_NO_VALUE),
}


def reply(shape: str, content: dict[str, Any], location: str) -> dict[str, Any]:
    """Return the content of a reply to a request of this kind; UnsafeAnswer if the agent would not reply so."""
    try:
        tree(content, "the reply")
        REPLIES.get(shape, tree)(content, "the reply")
        if "buffers" in content:  # only we may set it: buffers come beside the JSON
            raise WrongShape("the reply has buffers of its own")
    except WrongShape as error:
        kind = shape.partition(".")[0]
        raise UnsafeAnswer(location, f"a reply of the wrong shape to {kind} ({error})") from None
    return content


# -- files -----------------------------------------------------------------------------------------------------------

_MODE = whole(0, 0o7777_7777)
# Nanoseconds: the largest time of a file. No file system has one as large, but system calls accept it.
MAX_TIME = 1 << 91
_TIME = whole(-MAX_TIME + 1, MAX_TIME - 1)
_WHAT: dict[str, Check] = {"kind": one_of("file", "folder", "end", "link", "odd", "other", "missing")}
_WHAT_TOO: dict[str, Check] = {
    "size": _size,
    "mode": _MODE,
    "mtime": _TIME,
    "target": text(),
    "reason": text(),
    "path": tree,
    "name": text(),
    "part": _size,
    "parent": _name,
}
_SUMS = listing(tree, 1_000_000)
FILES: dict[str, Check] = {
    "find": record({"found": listing(record(_WHAT, _WHAT_TOO), 10_000)}),
    "where": record({**_WHAT, "path": text()}, {**_WHAT_TOO, "path": text()}),
    "total": record({}, {"files": _size, "bytes": _size}),
    "list": record({"entries": listing(record({**_WHAT, "path": listing(text(), 100_000)}, _WHAT_TOO), 100_000)}),
    "sums": record({}, {"sums": _SUMS, "size": _size}),
    "read": record({}, {"size": _size, "mode": _MODE, "mtime": _TIME, "at": _size, "last": flag, "changed": flag}),
    "look": record(_WHAT, _WHAT_TOO),
    "done": record({}, {"same": flag}),
    "write": record({}, {"same": flag, "at": _size, "kept": tree}),
    "folder": record({}, {"made": flag}),
    "link": record({}, {"made": flag}),
}
_MORE = record({"more": flag}, {**_WHAT_TOO, "sums": _SUMS})
_FAILED = record({"error": text()}, {"code": maybe(_line)})


def files(op: str, message: dict[str, Any], location: str) -> dict[str, Any]:
    """Return a control message that answers a request of a transfer; UnsafeAnswer if the agent would not send it."""
    try:
        tree(message, "the answer")
        if "error" in message:
            _FAILED(message, "the answer")
        elif message.get("more"):
            _MORE(message, "the answer")
        elif op in FILES:
            FILES[op](message, "the answer")
    except WrongShape as error:
        raise UnsafeAnswer(location, f"an answer of the wrong shape to {op} ({error})") from None
    return message
