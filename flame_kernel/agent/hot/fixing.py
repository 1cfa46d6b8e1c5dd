"""Replaces the code of a function of a running program, in place, and puts the old code back when asked to.

The function stays the same object, so whoever holds it (a route, a callback, a bound method) runs the new code from its
next call on; calls that run already end with the old one.  Decorators, closure and signature stay as they are: text
that changes them is refused.  Fixes belong to the session that made them, and end with it.
"""

import ast
import builtins
import difflib
import dis
import inspect
import linecache
import logging
import sys
import textwrap
import threading
import time
import types

from .. import sources, threads
from .patching import set_code

OPS = ("fix", "unfix", "fixes", "source")
# Code of these kinds is called in other ways: one cannot take the place of another.
_FLAGS = (
    (inspect.CO_COROUTINE, "a coroutine (async def)"),
    (inspect.CO_ASYNC_GENERATOR, "an async generator"),
    (inspect.CO_GENERATOR, "a generator (it has yield)"),
)
_OUTER = "__flame_outer"

_lock = threading.RLock()
_fixes = []  # of all sessions in this process, the oldest first
_count = 0


class Refused(Exception):
    """A function cannot be changed; the text is one sentence."""


class Fix:
    """One function's new code. ``before`` is what it replaced: (code, defaults, keyword defaults); ``is_in_app`` says
    whether the process is a program's and not the session's own."""

    def __init__(self, number, name, function, text, before, after, session, user, is_in_app):
        self.number = number
        self.name = name
        self.function = function
        self.text = text
        self.before = before
        self.after = after
        self.session = session
        self.user = user
        self.is_in_app = is_in_app
        self.at = time.time()

    def __repr__(self):
        return "<Fix #%d of %s>" % (self.number, self.name)


def begin(host, request):
    """Answer a request about fixes, on a thread of its own: the program's own handlers of ``logging`` may take long."""
    threads.start("hotfix", lambda: host.reply(request, _safely(host, request)))


def _safely(host, request):
    try:
        return dict(_reply(host, request), status="ok")
    except Refused as e:
        return {"status": "error", "ename": "Refused", "evalue": str(e), "traceback": []}
    except Exception as e:  # a name may lead to objects of any kind, and who asks waits for an answer
        return {"status": "error", "ename": type(e).__name__, "evalue": str(e), "traceback": []}


def _reply(host, request):
    op, name = request["op"], request.get("name") or ""
    if op == "fixes":
        return {"fixes": _listed()}
    if op == "source":
        return {"source": source_of(name)}
    if op == "fix":
        user, is_in_app = str(request.get("user") or "")[:200], not host.place.owns_process
        number, notes = apply(name, request["text"], host.session_id, user, is_in_app)
        return {"number": number, "notes": notes}
    if op == "unfix":
        return {"undone": undo(name, host.session_id, str(request.get("user") or "")[:200])}
    raise ValueError("unknown op %r" % op)


def _listed():
    with _lock:
        return [[one.number, one.name, one.session, one.user, one.at] for one in _fixes]


# -- finding ---------------------------------------------------------------------------------------------------------


class Found:
    """A function that was found by its ``name``; ``owner`` is the class that defines it, or None."""

    def __init__(self, name, function, owner):
        self.name = name
        self.function = function
        self.owner = owner


def find(name):
    """The Found of ``module.function`` or ``module.Class.method``. Raises Refused."""
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise Refused("%r is not the name of a function; write module.function or module.Class.method" % name)
    depth = next((n for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in sys.modules), 0)
    if not depth:
        near = difflib.get_close_matches(parts[0], {one.partition(".")[0] for one in list(sys.modules)}, 3)
        more = "; there is %s" % ", ".join(near) if near else ""
        raise Refused("no module %s is loaded there%s" % (".".join(parts[:-1]), more))
    thing, owner = sys.modules[".".join(parts[:depth])], None
    for n in range(depth, len(parts)):
        thing, owner = _attribute(thing, parts[n], ".".join(parts[:n]))
    return Found(name, _function(thing, parts[-1], name), owner)


def _attribute(thing, name, path):
    """``(attribute, the class that has it or None)`` without running code of the program's."""
    if isinstance(thing, type):
        if name.startswith("__") and not name.endswith("__"):
            name = "_%s%s" % (thing.__name__.lstrip("_"), name)
        for owner in thing.__mro__:
            if name in owner.__dict__:
                return owner.__dict__[name], owner
    elif name in getattr(thing, "__dict__", {}):
        return thing.__dict__[name], None
    known = [one for one in dir(thing) if not one.startswith("__")]
    near = difflib.get_close_matches(name, known, 3)
    raise Refused("%s has no %s%s" % (path, name, "; there is %s" % ", ".join(near) if near else ""))


def _function(thing, name, path):
    """The user's function inside of a decorator, a method or a property."""
    for _ in range(50):
        if isinstance(thing, (staticmethod, classmethod)):
            thing = thing.__func__
        elif isinstance(thing, property):
            thing = thing.fget
        elif not isinstance(thing, type) and getattr(thing, "__wrapped__", None) is not None:
            thing = thing.__wrapped__
        elif type(thing).__name__ == "cached_property" and hasattr(thing, "func"):
            thing = thing.func
        else:
            break
    if isinstance(thing, types.FunctionType):
        return _wrapped_function(thing, name, path)
    if isinstance(thing, type):
        methods = [one for one, value in thing.__dict__.items() if isinstance(value, types.FunctionType)]
        more = ", such as %s.%s" % (path, methods[0]) if methods else ""
        raise Refused("%s is a class; name one of its methods%s" % (path, more))
    if isinstance(thing, types.ModuleType):
        raise Refused("%s is a module; name one of its functions" % path)
    if callable(thing):
        raise Refused("%s is a %s, which has no Python code to replace" % (path, type(thing).__name__))
    raise Refused("%s is a %s, not a function" % (path, type(thing).__name__))


def _wrapped_function(function, name, path):
    """``function``, or the one of that name inside it, if a decorator without ``functools.wraps`` has made it."""
    own = function.__code__.co_name
    if own in (name, "<lambda>") or not function.__closure__:
        if own == "<lambda>":
            raise Refused("%s is a lambda, which has no def to edit" % path)
        return function
    for cell in function.__closure__:
        try:
            inner = cell.cell_contents
        except ValueError:
            continue
        if isinstance(inner, types.FunctionType) and inner.__code__.co_name == name:
            return inner
    return function


def source_of(name):
    """The text of a function as it is now, from its first decorator on. Raises Refused."""
    return _source(find(name))


def _source(found):
    with _lock:
        fixed = [one for one in _fixes if one.function is found.function]
    if fixed:  # its decorators are no part of its new code, but of its text
        return fixed[-1].text
    code = found.function.__code__
    try:
        return textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError):
        raise Refused("the source of %s cannot be found there; write the whole function" % found.name)


# -- checking --------------------------------------------------------------------------------------------------------


def _parsed(text, name):
    """The one ``def`` of a text."""
    try:
        tree = ast.parse(text)
    except SyntaxError as e:
        raise Refused("the new text cannot be compiled there: %s (line %s)" % (e.msg, e.lineno))
    wanted = (ast.FunctionDef, ast.AsyncFunctionDef)
    if len(tree.body) != 1 or not isinstance(tree.body[0], wanted) or tree.body[0].name != name:
        raise Refused("write the function %s and nothing beside it: one def of that name" % name)
    return tree.body[0]


def _dumped(node):
    return None if node is None else ast.dump(node)


def _arguments(node):
    """``[(kind, name, annotation)]`` and the names that have a default."""
    args = node.args
    positional = list(getattr(args, "posonlyargs", ())) + args.args
    found = [("positional only", one) for one in getattr(args, "posonlyargs", ())]
    found += [("positional", one) for one in args.args]
    found += [("*", args.vararg)] if args.vararg else []
    found += [("keyword only", one) for one in args.kwonlyargs]
    found += [("**", args.kwarg)] if args.kwarg else []
    optional = {one.arg for one in positional[len(positional) - len(args.defaults) :]} if args.defaults else set()
    optional |= {one.arg for one, default in zip(args.kwonlyargs, args.kw_defaults) if default is not None}
    return [(kind, one.arg, _dumped(one.annotation)) for kind, one in found], optional


def _of_code(function):
    """What ``_arguments`` gives, for a function without source: its annotations are not known."""
    kinds = {"POSITIONAL_ONLY": "positional only", "POSITIONAL_OR_KEYWORD": "positional", "VAR_POSITIONAL": "*"}
    kinds.update(KEYWORD_ONLY="keyword only", VAR_KEYWORD="**")
    found = inspect._signature_from_function(inspect.Signature, function).parameters.values()
    optional = {one.name for one in found if one.default is not one.empty}
    return [(kinds[one.kind.name], one.name, None) for one in found], optional


def check(old, new, old_optional, new_optional):
    """Raises Refused if calls of the old signature do not fit the new one; compares annotations where both are known.

    Parameters may be added, if they have a default.
    """
    before = {name: (kind, note) for kind, name, note in old}
    after = {name: (kind, note) for kind, name, note in new}
    for name, (kind, note) in before.items():
        problem = _differs(name, kind, note, after)
        if problem or (name in old_optional and name not in new_optional):
            raise Refused("the signature must stay: %s" % (problem or name + " had a default"))
    if [name for _, name, _ in new if name in before] != [name for _, name, _ in old]:
        raise Refused("the signature must stay: its parameters are in another order")
    _check_added(new, before, new_optional)


def _differs(name, kind, note, after):
    """How a parameter differs from the one of its name in the new signature; empty if it does not."""
    if name not in after:
        return "%s is missing" % _named(kind, name)
    if after[name][0] != kind:
        return "%s was %s, and is %s" % (name, kind, after[name][0])
    return "the annotation of %s has changed" % name if note not in (None, after[name][1]) else ""


def _check_added(new, before, optional):
    for kind, name, _ in new:
        if name not in before and name not in optional and kind not in ("*", "**"):
            raise Refused("the signature must stay: the new parameter %s needs a default" % name)
    positional = [name for kind, name, _ in new if kind.startswith("positional")]
    added = [name for name in positional if name not in before]
    if added and positional[-len(added) :] != added:
        raise Refused("the signature must stay: new parameters must come after the old ones")


def _named(kind, name):
    return kind + name if kind in ("*", "**") else name


def _check_kind(old, new, name):
    for flag, words in _FLAGS:
        if (old.co_flags ^ new.co_flags) & flag:
            is_now = (
                "is %s now, but was not before" % words
                if new.co_flags & flag
                else "was %s, but is not any more" % words
            )
            raise Refused("%s %s: whoever calls it would not know" % (name, is_now))


def _check_decorators(old, new, name):
    if [_dumped(one) for one in old.decorator_list] != [_dumped(one) for one in new.decorator_list]:
        raise Refused("the decorators of %s stay as they are: a hotfix changes its body only" % name)


# -- compiling -------------------------------------------------------------------------------------------------------


def compiled(found, text, filename):
    """A function with the new code, made in the scope of the old one. Raises Refused."""
    function, name = found.function, found.function.__code__.co_name
    node = _parsed(text, name)
    try:
        old = _parsed(_source(found), name)
    except Refused:
        old = None
    if old is not None:
        _check_decorators(old, node, found.name)
        before = _arguments(old)
    else:
        before = _of_code(function)
    after = _arguments(node)
    check(before[0], after[0], before[1], after[1])
    made = _made(found, node, filename)
    _check_kind(function.__code__, made.__code__, found.name)
    if made.__code__.co_freevars != function.__code__.co_freevars:
        extra = sorted(set(made.__code__.co_freevars) - set(function.__code__.co_freevars))
        how = "super() without arguments; write super(%s, self)" % (found.owner.__name__ if found.owner else "Class")
        what = how if extra == ["__class__"] else "other variables of the function around it (%s)" % ", ".join(extra)
        raise Refused("%s cannot get the new code: it uses %s" % (found.name, what))
    return made


def _made(found, node, filename):
    function = found.function
    free = [one for one in function.__code__.co_freevars if one != "__class__"]
    node.decorator_list, node.returns = [], None
    for one in ast.walk(node.args):
        if isinstance(one, ast.arg):
            one.annotation = None
    # Name the free variables of the old code in the new code too, so that its closure has a place for each.
    names = [ast.Expr(ast.Name(one, ast.Load())) for one in function.__code__.co_freevars]
    if names:
        has_text = node.body and isinstance(node.body[0], ast.Expr) and ast.get_docstring(node, False) is not None
        node.body.insert(1 if has_text else 0, ast.If(ast.parse("0").body[0].value, names, []))
    outer = ast.parse("def %s(%s):\n    pass" % (_OUTER, ", ".join(free)))
    inner, result = [node], node.name
    if found.owner is not None:
        holder = ast.parse("class %s:\n    pass" % found.owner.__name__).body[0]
        holder.body = [node]
        inner = [holder]
        mangled = node.name
        if mangled.startswith("__") and not mangled.endswith("__"):
            mangled = "_%s%s" % (found.owner.__name__.lstrip("_"), mangled)
        result = "%s.__dict__[%r]" % (found.owner.__name__, mangled)
    outer.body[0].body = inner + [ast.parse("def f():\n    return " + result).body[0].body[0]]
    ast.fix_missing_locations(outer)
    local = {}
    try:
        exec(compile(outer, filename, "exec", dont_inherit=True), function.__globals__, local)
        return local[_OUTER](*[None] * len(free))
    except (SyntaxError, ValueError) as e:
        raise Refused("the new text cannot be compiled there: %s" % e)
    except Exception as e:  # a default of a parameter is the user's code
        raise Refused("a default of a parameter cannot be made there: %s: %s" % (type(e).__name__, e))


def _unknown(function, made):
    """Global names that the new code uses, the old one does not, and nobody has."""
    known = set(function.__globals__) | set(dir(builtins)) | set(function.__code__.co_names)
    used = {one.argval for one in dis.get_instructions(made.__code__) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return sorted(used - known)


# -- changing --------------------------------------------------------------------------------------------------------


def apply(name, text, session, user, is_in_app):
    """Give a function new code: ``(the fix's number, sentences for the user)``. Raises Refused."""
    global _count
    text = textwrap.dedent(text).strip("\n") + "\n"
    with _lock:
        found = find(name)
        function = found.function
        _count += 1
        filename = "<hotfix %s #%d>" % (name, _count)
        made = compiled(found, text, filename)
        before = (function.__code__, function.__defaults__, function.__kwdefaults__)
        after = (made.__code__, made.__defaults__, made.__kwdefaults__)
        linecache.cache[filename] = (len(text), None, sources.lines_of(text), filename)
        unknown = _unknown(function, made)
        set_code(function, *after)
        fix = Fix(_count, name, function, text, before, after, session, user, is_in_app)
        _fixes.append(fix)
    _note("applied", fix, user, session)
    notes = ["%s is not known in %s" % (", ".join(unknown), function.__module__)] if unknown else []
    return fix.number, notes


def undo(name, session, user):
    """Put back the code before the latest fix of ``name``, or of all that a session has fixed, if it is empty. Returns
    ``[[number, name], …]``. Raises Refused."""
    with _lock:
        if name:
            mine = [one for one in _fixes if one.name == name][-1:]
            if not mine:
                raise Refused("%s has no hotfix; %%flame hotfix lists them" % name)
        else:
            mine = [one for one in reversed(_fixes) if one.session == session]
        for one in mine:
            _take_back(one)
    for one in mine:
        _note("undone", one, user, session)
    return [[one.number, one.name] for one in mine]


def _take_back(fix):
    """Remove one fix, which may lie below others of the same function."""
    later = [one for one in _fixes[_fixes.index(fix) + 1 :] if one.function is fix.function]
    if later:
        later[0].before = fix.before
    elif fix.function.__code__ is fix.after[0]:  # else somebody has changed it since: leave it
        set_code(fix.function, *fix.before)
    _fixes.remove(fix)
    linecache.cache.pop(fix.after[0].co_filename, None)


def close(session):
    """A session ends: undo what it has fixed."""
    if any(one.session == session for one in _fixes):
        undo("", session, "the end of the session")


def _note(what, fix, user, session):
    """Tell the program's own log. In a process of the session's own there may be none: then logging would write to
    stderr, which is the cell's there."""
    logger = logging.getLogger("remote_flame")
    if fix.is_in_app or logger.hasHandlers():
        words = "a notebook's hotfix #%d of %s %s: user %s, session %s"
        logger.warning(words, fix.number, fix.name, what, user, session)
