"""Objects of a session, for a client that uses them over the link: each request is one chain of steps.

A request has a *root*, *steps* that start there, and a *mode*, which says what is returned::

    root    ["module", name]  ["builtins"]  ["modules"]  ["names"]  ["user_names"]  ["held", id]  ["eval", code]
            ["exec", code]  ["has_module", name]  ["function", reference], see ``functions``
    steps   (word, …): see ``_STEPS``, and exit and aexit, which end a ``with`` block; their arguments are values of
            ``values``, which may include held objects
    mode    auto: the value if it is plain and not large, otherwise a reference     value: the value, whatever its size
            keep: a reference    items: the next few of an iterator                 none: nothing
    called  whether the last step is a call: of a class that the client has sent, its key goes with the reference

So ``modules.numpy.linalg.norm([3, 4])`` is one request.  An object is held here as long as the client's stand-in
exists: when that is garbage-collected, the next request names it in ``release``.  When the session ends, all are
released.

A request runs on the lane for cells if no cell is running, otherwise on a lane of its own.  Like a cell, it can print
and be interrupted.
"""

import builtins
import functools
import importlib
import linecache
import os
import sys
import threading
import time
import types

from .. import own, sources
from ..output import streams, sys_hooks
from ..shell import compiler, tracebacks
from ..wire import raised, values
from ..wire.chunks import PIECE, Incoming, Outgoing
from . import callbacks, description, exceptions, functions, loops, pickles, results
from .operations import FUNCTIONS

# Most parts of a result that is sent in a single answer.
MAX_PARTS = 10000
# Seconds for which one request gathers items of an iterator.
GATHER = 0.02
# How many evaluated or executed texts keep their lines for tracebacks.
REMEMBERED = 200


class Gone(Exception):
    """A reference to an object that no longer exists here."""


class Objects:
    """The objects that a session's client holds, and its requests for them. ``host`` is the session core."""

    def __init__(self, host):
        self._host = host
        self._mark = os.urandom(4).hex()  # so that ids from an earlier process of this session are not taken for ours
        self._held = {}  # id -> [object, how many of the client's objects stand for it]
        self._ids = {}  # id() of the object -> its id here
        self._count = 0
        self._large = {}  # ticket -> Outgoing: a large value being fetched
        self._staged = {}  # ticket -> Incoming: large arguments being sent
        self._lock = threading.Lock()
        self._texts = []
        self._classes = functions.Classes()
        self.told = results.Told(self._classes)
        self._waiting = callbacks.Waiting(host.append, lambda: host.closed)

    def __repr__(self):
        return "<Objects %s, %d held>" % (self._mark, len(self._held))

    # -- references --------------------------------------------------------------------------------------------------

    def hold(self, thing):
        """Hold ``thing`` for one more object of the client; returns its description."""
        with self._lock:
            known = self._ids.get(id(thing))
            if known is None:
                self._count += 1
                known = "%s-%d" % (self._mark, self._count)
                self._ids[id(thing)] = known
                self._held[known] = [thing, 0]
            self._held[known][1] += 1
        return description.describe(thing, known, self.told.any)

    def handed(self, thing):
        """As ``hold``; a class that the client has sent comes with its key, by which the client finds its own class."""
        key = self._classes.key(thing)
        return self.hold(thing) if key is None else dict(self.hold(thing), key=key)

    def held(self, known):
        """The object with an id; raises Gone."""
        try:
            return self._held[known][0]
        except (KeyError, TypeError):
            raise Gone("the object is gone: its session ended")

    def release(self, ids):
        """Release objects that the client has collected; an id may occur several times, once for each stand-in."""
        dropped = []  # freed only after the lock: a __del__ may do anything
        with self._lock:
            for known in ids:
                entry = self._held.get(known)
                if entry is None:
                    continue
                entry[1] -= 1
                if entry[1] <= 0:
                    del self._held[known]
                    del self._ids[id(entry[0])]
                    dropped.append(entry)
        while dropped:
            _let_go(dropped.pop())

    def close(self):
        """The session ends: hold nothing any more."""
        with self._lock:
            dropped, self._held, self._ids = self._held, {}, {}
            self._large.clear()
            self._staged.clear()
            texts, self._texts = self._texts, []
        dropped.clear()
        for name in texts:
            linecache.cache.pop(name, None)

    # -- requests ----------------------------------------------------------------------------------------------------

    async def perform(self, request):
        """Run a request on a lane's thread: ``(content of its object_reply, buffers)``."""
        host = self._host
        cell = streams.Cell(request["id"], host, request.get("allow_stdin", False))
        streams.set_current(cell)
        sys_hooks.check()
        host.hot.before_cell(cell)
        self.release(request.get("release") or ())
        things, called = [], callbacks.Callbacks(self, host, request["id"])
        try:
            with loops.none_runs():
                thing, awaits = self._chain(request, things, called)
                if not awaits or not (isinstance(thing, types.CoroutineType) or awaits == "any"):
                    return self._answer(thing, request)
            thing = await loops.here(thing, host.loop)
            with loops.none_runs():
                return self._answer(thing, request)
        except BaseException as e:  # the user's code may raise anything; the client is told, as for a cell
            return self._failed(e.error if isinstance(e, functions.Failed) else e, things, called)
        finally:
            called.close()

    def _failed(self, exc, things, called):
        """The reply for a request that could not be done or has raised."""
        if isinstance(exc, Gone):
            return {"status": "gone", "message": str(exc)}, ()
        if isinstance(exc, values.BadValue):
            why = "not installed" if exc.missing else "unreadable"
            return {"status": "refused", "why": why, "message": str(exc)}, ()
        if isinstance(exc, values.NotPlain):
            return {"status": "refused", "why": "not plain", "message": str(exc)}, ()
        if isinstance(exc, functions.Lacking):
            return {"status": "refused", "why": "lacks", "message": str(exc)}, ()
        content, buffers = self._error(exc)
        name = raised.attribute(exc, "name")
        if isinstance(exc, NameError) and things and name in things[0].absent:
            content["absent"] = name
        if id(exc) in called.raised:
            content["raised"] = called.raised[id(exc)][0]
        return content, buffers

    def at_once(self, request):
        """Answer a request that runs no code of the user's: for a piece of a large value, how much of one has arrived,
        a callback's result, or what the client releases."""
        self.release(request.get("release") or ())
        if request["op"] == "piece":
            return self._piece(request)
        if request["op"] == "stage":
            try:
                self.incoming(request["ticket"], request["sizes"]).put(request["at"], request["buffers"])
            except (ValueError, MemoryError) as e:
                return {"status": "refused", "why": "unreadable", "message": str(e) or "there is no memory for it"}, ()
        elif request["op"] == "callback":
            self._waiting.answer(request)
        elif request["op"] == "staged":
            staged = self._staged.get(request["ticket"])
            return {"status": "ok", "come": 0 if staged is None else staged.come}, ()
        elif request["op"] == "drop":
            self._large.pop(request["ticket"], None)
            self._staged.pop(request["ticket"], None)
        return {"status": "ok"}, ()

    def ask_client(self, request_id, content, buffers, is_over):
        """Have the client call one of its own functions; returns its answer, or None; see ``callbacks``."""
        return self._waiting.ask(request_id, content, buffers, is_over)

    def answered(self, answer, called):
        """The value in the client's answer."""
        try:
            things, value = self._read(answer, called)
            things.finish()
        except functions.Failed as e:
            raise e.error
        return value

    def _read(self, request, called):
        """``(the Things of a request, its value)``; the Things are not filled in yet."""
        if request.get("staged"):
            staged = self._staged.pop(request["staged"], None)
            if staged is None:
                raise Gone("the arguments are gone: their session ended")
            if staged.come < staged.size:
                raise values.BadValue("arguments of which %d bytes are missing" % (staged.size - staged.come))
            parts = staged.parts
        else:
            parts = request.get("buffers") or [b"[]"]
        made = []
        loads = pickles.opener(lambda name: made[0].resolve(name)) if request.get("trust") else None
        lists, at = [], 0
        for length in request.get("things") or [len(parts)]:
            lists.append(parts[at : at + length])
            at += length
        names = self._host.namespace.__dict__
        things = functions.Things(lists[1:], self.held, loads, self._classes, names, self._remember_file, called.make)
        made.append(things)
        return things, values.decode(lists[0], things.resolve, loads, self._class)

    def _chain(self, request, made, called):
        """``(the result of a request's chain, whether to await it)``. The request's Things are appended to ``made``."""
        things, steps = self._read(request, called)
        made.append(things)
        root = request["root"]
        thing = things.resolve(root[1]) if root[0] == "function" else None
        things.finish()
        awaits = request.get("await", False)
        if root[0] in ("eval", "exec"):
            thing, awaits = self._run(*root)
        elif root[0] != "function":
            thing = self._root(root)
        for step in steps:
            if step[0] in ("exit", "aexit"):
                thing = self._exit(thing, *step)
            else:
                thing = _STEPS[step[0]](thing, *step[1:])
        return thing, awaits

    def _exit(self, thing, how, sent):
        """End a ``with`` block there: ``sent`` is None, or describes the exception that ended the block."""
        leave = thing.__exit__ if how == "exit" else functools.partial(type(thing).__aexit__, thing)
        if sent is None:
            return leave(None, None, None)
        error = exceptions.made(sent, self._host.namespace.__dict__)
        return leave(type(error), error, None)

    def _root(self, root):
        kind = root[0]
        if kind == "module":
            module = sys.modules.get(root[1])
            is_whole = not getattr(getattr(module, "__spec__", True), "_initializing", module is None)
            return module if is_whole else importlib.import_module(root[1])
        if kind == "builtins":
            return builtins
        if kind == "names":
            return self._host.namespace.__dict__
        if kind == "held":
            return self.held(root[1])
        if kind == "has_module":
            return description.has_module(root[1])
        if kind == "modules":
            return description.modules()
        if kind == "user_names":
            return self._user_names()
        raise values.BadValue("the unknown root %r" % (kind,))

    def _run(self, kind, code):
        """Evaluate or execute text: ``(its value, whether that is a coroutine because the text awaits)``."""
        mode, what = ("eval", "evaluate") if kind == "eval" else ("exec", "execute")
        code = code.strip() if kind == "eval" else code
        step = compiler.step(code, self._remember(code, what), mode)
        return step.start(self._host.namespace.__dict__), step.awaits

    def _user_names(self):
        """The names that the user has defined, sorted."""
        shell = self._host.shell
        hidden = getattr(shell, "hidden", None)
        if hidden is None:
            hidden = shell.ip.user_ns_hidden
        names = self._host.namespace.__dict__
        mine = [name for name in list(names) if name not in hidden or hidden[name] is not names[name]]
        return sorted(name for name in mine if not name.startswith("_"))

    def _remember(self, code, what):
        """A file name for ``code`` by which tracebacks find its lines."""
        with self._lock:
            self._count += 1
            number = self._count
        return self._remember_file("%s %s-%d" % (what, self._mark, number), code)

    def _remember_file(self, file, code):
        """The same for code that has a file on the client's side."""
        name = "<flame %s>" % file
        with self._lock:
            if name in self._texts:
                self._texts.remove(name)
            self._texts.append(name)
            old = self._texts.pop(0) if len(self._texts) > REMEMBERED else None
        linecache.cache[name] = (len(code), None, sources.lines_of(code), name)
        linecache.cache.pop(old, None)
        return name

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, thing, request):
        mode, libraries = request.get("mode", "auto"), request.get("libraries")
        if mode == "none":
            return {"status": "ok", "how": "none"}, ()
        if mode == "keep":
            return {"status": "ok", "how": "held", "held": self.hold(thing)}, ()
        if mode == "items":
            return self._items(thing, request)
        if mode == "value":
            dumps = pickles.pickler(request["trust"], self._classes) if request.get("trust") else None
            told = self.told.any if dumps is None else self.told.unless_pickled
            parts = values.encode(thing, dumps=dumps, libraries=libraries, classes=told)
            return self._by_value(parts)
        is_module = isinstance(thing, types.ModuleType)
        found = None if is_module else results.parts(thing, self._classes, libraries, request.get("trust"))
        if found is None:
            hold = self.handed if request.get("called") else self.hold
            return {"status": "ok", "how": "held", "held": hold(thing)}, ()
        reply, buffers = self._by_value(found[0])
        return reply if found[1] else dict(reply, held=self.hold(thing)), buffers

    def _class(self, key, module, name):
        """The class that the client means by a description from ``told``; None if it is no longer here."""
        known = self._classes.get(key)
        if known is not None:
            return known[0]
        found = sys.modules.get(module)
        if found is None or module == "__main__":
            found = self._host.namespace
        for part in name.split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, type) else None

    def _by_value(self, parts):
        if sum(map(len, parts)) <= PIECE and len(parts) <= MAX_PARTS:
            return {"status": "ok", "how": "value"}, parts
        large = Outgoing(parts)
        with self._lock:
            self._count += 1
            ticket = "%s-%d" % (self._mark, self._count)
            self._large[ticket] = large
        return {"status": "ok", "how": "pieces", "ticket": ticket, "sizes": large.sizes}, ()

    def _piece(self, request):
        large = self._large.get(request["ticket"])
        if large is None:
            return {"status": "gone", "message": "the value is gone: its session ended"}, ()
        return {"status": "ok"}, [b"".join(large.piece(request["at"], PIECE))]

    def incoming(self, ticket, sizes):
        """The arguments that arrive under ``ticket``; if it is new, ``sizes`` are the lengths of its parts."""
        with self._lock:
            staged = self._staged.get(ticket)
            if staged is None:
                staged = self._staged[ticket] = Incoming(sizes)
        return staged

    def outgoing(self, ticket):
        """A value that is being fetched; KeyError if it is gone."""
        return self._large[ticket]

    def _items(self, thing, request):
        """The next items of an iterator, as many as requested unless that takes long; each is a value or a reference.

        An exception follows the items that came before it.
        """
        items, done, error = [], False, None
        until = time.monotonic() + GATHER
        while len(items) < request["count"] and time.monotonic() <= until:
            try:
                items.append(next(thing))
            except StopIteration:
                done = True
                break
            except BaseException as e:  # the user's iterator may raise anything; reported after the items before it
                if not items:
                    raise
                error = e
                break
        reply = {"status": "ok", "how": "items", "done": done, "slow": time.monotonic() > until}
        reply["entries"], buffers = self._entries(items, request.get("libraries"), request.get("trust"))
        reply["parts"] = len(buffers)
        if error is not None:
            reply["error"], more = self._error(error)
            buffers.extend(more)
        elif not done and request.get("hold"):
            reply["iterator"] = self.hold(thing)
        return reply, buffers

    def _entries(self, items, libraries, trust):
        """``(entries, buffers)``: for each item its number of parts, its description, or both. ``entries`` is None if
        all items travel as one value."""
        together = results.parts(items, self._classes, libraries, share=4)
        if together is not None and together[1]:
            return None, together[0]
        entries, buffers = [], []
        for item in items:
            found = results.parts(item, self._classes, libraries, trust, share=4)
            if found is None:
                entries.append(self.hold(item))
            else:
                entries.append(len(found[0]) if found[1] else dict(self.hold(item), parts=len(found[0])))
                buffers.extend(found[0])
        return entries, buffers

    def _error(self, exc):
        """An exception as text and plain attributes, from which the client makes its own."""
        content, facts = exceptions.told(exc, self._lines, self.told)
        return dict(content, status="error"), exceptions.encoded(facts, self.hold, self.told)

    def _lines(self, exc):
        """An exception's traceback from the user's first frame on; only the last line if no user code ran."""
        tb = exc.__traceback__
        while tb is not None and own.has(tb.tb_frame):
            tb = tb.tb_next
        if tb is None and exc.__cause__ is None and exc.__context__ is None:
            return [line.rstrip("\n") for line in tracebacks.exception_only(exc)]
        shell = self._host.shell
        if shell is not None and shell.name == "mini":  # this shell knows which files are cells
            return shell.format_exception((type(exc), exc, tb))["traceback"]
        return tracebacks.Formatter().lines(exc, tb)


def _let_go(entry):
    """Drop an object of the client. A warning about a coroutine never awaited then names the coroutine's line."""
    thing = entry[0]
    if isinstance(thing, types.CoroutineType):
        code = thing.cr_code
        entry[0] = None
        held = {"held": [thing], "__name__": "__main__"}
        del thing
        exec(compile("\n" * (code.co_firstlineno - 1) + "held.clear()", code.co_filename, "exec"), held)


# -- steps -----------------------------------------------------------------------------------------------------------


def _get(thing, name):
    """Get an attribute; of a package this may also be a submodule that is not imported yet."""
    try:
        return getattr(thing, name)
    except AttributeError:
        if isinstance(thing, types.ModuleType) and hasattr(thing, "__path__"):
            full = "%s.%s" % (thing.__name__, name)
            try:
                return importlib.import_module(full)
            except ImportError as e:
                if e.name != full:
                    raise
        raise


def _set_item(thing, key, value):
    thing[key] = value


def _delete_item(thing, key):
    del thing[key]


_STEPS = {
    "get": _get,
    "set": setattr,
    "delete": delattr,
    "call": lambda thing, args, kwargs: thing(*args, **kwargs),
    "item": lambda thing, key: thing[key],
    "set_item": _set_item,
    "delete_item": _delete_item,
    "op": lambda thing, name, *args: FUNCTIONS[name](thing, *args),
    "reversed": lambda thing, name, other: FUNCTIONS[name](other, thing),
    "about": description.about,
    "rich": description.bundle,
}
