"""Makes functions, classes and objects for a client's request, from their source and the things that they use.

The client (see its ``functions``) sends them behind the values of the request: a *head*, which is a list of plain data,
and *contents*, which hold references to other things::

    head       {"items": [item, …], "spaces": [{"name": module, "names": {name: place}}, …]}
    place      ["plain", n] or ["content", n]: a list of one value or a few
    reference  id of a held object   ["item", n]   ["module", name, is the user's own]   ["name", module, path]
               ["callback", n, "function" or "iterator", name], which stays at the client

    function    name, qualname, source or code, file, line, free, cells, defaults, space, missing, modules, attributes
    definition  a class, or a function with its decorators: name, source, file, line, free, needs, space, missing, …;
                with a key it is a class, and made only once per session
    made        a class from a call: key, call  reduced  an object: new (callable and arguments), state
    exception   described, see ``exceptions``; attributes, which may hold the exception itself
    attribute   of, name    lru  function, maxsize, typed    dispatch  functions    container  of, content

Functions of one module share a *space*, their global names.  An item is made when it is first needed.  What it uses
only when it is called is filled in afterwards, so items may use each other.  Annotations of functions are not
evaluated: they may name anything.  ``missing`` names are looked up in the session, each time that they are read.
"""

import __future__

import ast
import builtins
import contextlib
import functools
import importlib
import marshal
import sys
import types

from ..shell.compiler import undisturbed
from ..wire import values
from . import exceptions
from .live_names import LiveNames

_FACTORY = """
def make(%s):
    def fill(flame_values):
        %s
    return None, fill
"""
_ANNOTATED = (ast.FunctionDef, ast.AsyncFunctionDef)
_ALONE = ("__class__",)


class Failed(Exception):
    """Making a thing has raised ``error``. A class of its own, so that the code that reads values lets it pass."""

    def __init__(self, error):
        Exception.__init__(self, error)
        self.error = error


class Lacking(Exception):
    """A module of the user's own is missing here; the text names it."""


class _Waits(Exception):
    """An item is needed that is still being made."""


class Classes:
    """The classes that a session's client has sent; each is made once."""

    def __init__(self):
        self._made = {}  # key -> (class, its global names)
        self._keys = {}  # id of the class -> key

    def __repr__(self):
        return "<Classes %d>" % len(self._made)

    def get(self, key):
        return self._made.get(key)

    def add(self, key, kind, space):
        self._made[key] = (kind, space)
        self._keys[id(kind)] = key

    def key(self, kind):
        """The client's name of a class; None if the client did not send it."""
        return self._keys.get(id(kind))


class Things:
    """The things that one request needs.

    parts      the parts of each value: head, plain data, contents
    held       returns the object with an id
    loads      unpickles, or is None
    classes    the Classes of the session
    names      the session's variables
    remember   ``remember(file, source)`` returns a file name by which tracebacks find the lines
    callback   ``callback(number, kind, name)`` returns what represents something that stays at the client
    """

    def __init__(self, parts, held, loads, classes, names, remember, callback):
        self._parts = parts
        self._held = held
        self._loads = loads
        self._classes = classes
        self._session = names
        self._remember = remember
        self._callback = callback
        self._contents, self._made, self._under_way = {}, {}, set()
        self._waiting = []  # functions without arguments that fill something in later
        self.absent = set()  # names that exist on neither side
        self._items, self._spaces, self._names = (), (), ()
        if parts:
            self._read(values.decode(parts[0]), names)

    def _read(self, head, names):
        self._items = head["items"]
        live = {one["space"] for one in self._items if _reads_session(one)}
        self._spaces = [
            LiveNames(one, names) if number in live else one
            for number, one in enumerate({"__builtins__": builtins, "__name__": one["name"]} for one in head["spaces"])
        ]
        self._names = [one["names"] for one in head["spaces"]]
        for number, one in enumerate(self._names):
            self._waiting += [functools.partial(self._name, number, name) for name in one if one[name] is not None]

    # -- looking things up -------------------------------------------------------------------------------------------

    def resolve(self, reference):
        """The object for a reference; raises Failed."""
        try:
            return self._resolve(reference)
        except (Failed, _Waits):
            raise
        except BaseException as e:  # an import, a class body or a decorator may raise anything; it is reported as is
            raise Failed(e)

    def finish(self):
        """Fill in everything that functions and classes use; raises Failed."""
        if self._waiting:
            self._fill()
        if self._waiting:
            raise Failed(values.BadValue("classes that need each other"))

    def _resolve(self, reference):
        if type(reference) is str:
            return self._held(reference)
        kind = reference[0]
        if kind == "item":
            return self._item(reference[1])
        if kind == "module":
            return self._module(reference[1], reference[2])
        if kind == "name":
            found = self._module(reference[1], False)
            for part in reference[2].split("."):
                found = getattr(found, part)
            return found
        if kind == "callback":
            return self._callback(*reference[1:])
        raise values.BadValue("the unknown reference %r" % (kind,))

    def _module(self, name, is_own):
        try:
            return importlib.import_module(name)
        except ImportError as e:
            if getattr(e, "name", None) not in (name, name.partition(".")[0]):
                raise
            if is_own:
                raise Lacking(name)
            raise e.with_traceback(None)  # lines of the import system would not help

    def _value(self, place):
        """The value at a place; each is read once."""
        kind, number = place
        if kind == "plain":
            if "plain" not in self._contents:
                self._contents["plain"] = values.decode(self._parts[1], self.resolve, self._loads)
            return self._contents["plain"][number]
        if number not in self._contents:
            self._contents[number] = values.decode(self._parts[2 + number], self.resolve, self._loads)
        return self._contents[number]

    def _item(self, number):
        if number not in self._made:
            if number in self._under_way:
                raise _Waits()
            self._under_way.add(number)
            try:
                item = self._items[number]
                self._made[number] = made = _MAKERS[item["kind"]](self, item, number)
            finally:
                self._under_way.discard(number)
            return made
        return self._made[number]

    # -- filling in ----------------------------------------------------------------------------------------------------

    def _later(self, function, *args):
        self._waiting.append(functools.partial(function, *args))

    def _fill(self):
        """Run the waiting tasks; those that need an item still being made keep waiting."""
        postponed = []
        while self._waiting:
            task = self._waiting.pop()
            try:
                task()
            except _Waits:
                postponed.append(task)
            except BaseException:  # raised again, whatever it is
                self._waiting += [task] + postponed
                raise
            else:
                self._waiting += postponed
                postponed = []
        self._waiting += postponed

    def _name(self, number, name):
        """Set a global name of a space."""
        space = self._spaces[number]
        if not dict.__contains__(space, name):
            place = self._names[number].get(name)
            if place is None:
                return
            value = self._value(place)[0]
            space.setdefault(name, value)

    def _prepare(self, item):
        """Import the submodules that an item uses, and note which of its names are found nowhere."""
        space = self._spaces[item["space"]]
        for name in item["modules"]:
            self._module(name, False)
        self.absent.update(name for name in item["missing"] if name not in space)
        return space

    # -- functions -----------------------------------------------------------------------------------------------------

    def _function(self, item, number):
        space = self._prepare(item)
        if "code" in item:
            code = marshal.loads(item["code"])
            cells = tuple(types.CellType() for _ in item["free"])
            made = types.FunctionType(code, space, item["name"], None, cells)
            fill = functools.partial(_fill_cells, cells)
        else:
            given = {}
            if "__class__" in item["free"]:
                given["__class__"] = self._value(item["cells"][item["free"].index("__class__")])[0]
            made, fill = self._compile(item, space, given)
        if not isinstance(made, types.FunctionType):
            raise values.BadValue("%s is not a function there" % item["name"])
        made.__qualname__ = item["qualname"]
        if isinstance(space, LiveNames):
            space.know(made.__code__)
        self._made[number] = made
        if item["cells"]:
            self._later(lambda: fill([self._value(place)[0] for place in item["cells"]]))
        if item["defaults"] is not None:
            self._later(self._set_defaults, made, item)
        for name, place in item["attributes"].items():
            self._later(self._set_attribute, made, name, place)
        return made

    def _set_attribute(self, function, name, place):
        function.__dict__[name] = self._value(place)[0]

    def _set_defaults(self, function, item):
        function.__defaults__, function.__kwdefaults__ = self._value(item["defaults"])

    def _compile(self, item, space, given, whole=True, flags=0):
        """Run a definition inside a function whose arguments are its free names: ``(the thing, what sets these
        names)``.

        ``given`` are values that are needed at once; ``whole`` is passed to ``_strip_evaluated``; None keeps the
        definition as it is.
        """
        source, name = item["source"], item["name"]
        try:
            (node,) = _parse(source)
        except SyntaxError as e:
            text = "Python %d.%d does not know the syntax of %s: %s, line %s"
            raise values.BadValue(text % (sys.version_info[:2] + (name, e.msg, e.lineno)))
        is_lambda = isinstance(node, ast.Expr)
        definition = node.value if is_lambda else node
        if whole is not None:
            _strip_evaluated(definition, whole)
        free = list(item["free"])
        is_alone = not (free or is_lambda)
        module = _tree("")
        module.body = [ast.fix_missing_locations(definition if is_alone else _factory(definition, name, free))]
        ast.increment_lineno(definition, item["line"] - 1)
        file = self._remember(item["file"], "\n" * (item["line"] - 1) + source)
        made = {}
        exec(undisturbed(lambda: compile(module, file, "exec", flags, True)), space, made)
        if is_alone:
            return made[name], None
        thing, fill = made["make"](**given)
        return thing, lambda found: fill([value for one, value in zip(free, found) if one not in _ALONE])

    # -- classes, and functions with their decorators ------------------------------------------------------------------

    def _definition(self, item, number):
        key, space = item.get("key"), self._prepare(item)
        known = None if key is None else self._classes.get(key)
        if known is not None:
            self._later(lambda: known[1].update(self._all(item["space"])))
            return known[0]
        for name in item["needs"]:
            self._name(item["space"], name)
        needed = [name for name in item["free"] if name in item["needs"]]
        given = {name: self._value(item["free"][name])[0] for name in needed}
        self._fill()
        flag = getattr(getattr(__future__, "annotations", None), "compiler_flag", 0)  # Python 3.6 has none
        whole = False if item["future"] and not flag else None
        with self._as_module(space, item["future"]):
            made, fill = self._compile(item, space, given, whole, flag if item["future"] else 0)
        self._made[number] = made
        if item["free"]:
            self._later(lambda: fill([self._value(item["free"][one])[0] for one in item["free"]]))
        if key is not None:
            self._classes.add(key, made, space)
            made.__qualname__, made.__module__ = item["qualname"], space["__name__"]
            if item.get("attributes"):
                self._later(self._set_attributes, made, item)
        return made

    @contextlib.contextmanager
    def _as_module(self, space, is_text):
        """Provide the definition's module, which this process lacks, while annotations that are text may be looked
        up."""
        if not is_text:
            yield
            return
        name, passing = space["__name__"], "flame_sent_%x" % id(space)
        module = sys.modules[passing] = types.ModuleType(passing)
        module.__dict__.update(space)
        space["__name__"] = passing
        try:
            yield
        finally:
            space["__name__"] = name
            del sys.modules[passing]

    def _all(self, number):
        for name in self._names[number]:
            self._name(number, name)
        return self._spaces[number]

    def _set_attributes(self, kind, item):
        for name, value in self._value(item["attributes"]).items():
            if vars(kind).get(name, kind) != value:
                setattr(kind, name, value)

    def _class_by_call(self, item, number):
        known = self._classes.get(item["key"])
        if known is not None:
            return known[0]
        make, args, defaults = self._value(item["call"])
        made = make(*args)
        made.__module__ = item["module"]
        if defaults:
            made.__new__.__defaults__ = defaults
            made._field_defaults = dict(zip(made._fields[-len(defaults) :], defaults))
        self._classes.add(item["key"], made, {})
        return made

    # -- objects -------------------------------------------------------------------------------------------------------

    def _reduced(self, item, number):
        make, args = self._value(item["new"])
        made = self._made[number] = make(*args)
        if "state" in item:
            try:
                self._set_state(made, item)
            except _Waits:
                self._later(self._set_state, made, item)
        return made

    def _set_state(self, made, item):
        state, listed, pairs = self._value(item["state"])
        if hasattr(made, "__setstate__") and state is not None:
            made.__setstate__(state)
        elif state is not None:
            plain, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            for name, value in (plain or {}).items():
                made.__dict__[name] = value
            for name, value in (slots or {}).items():
                setattr(made, name, value)
        for one in listed:
            made.append(one)
        for key, value in pairs:
            made[key] = value

    def _exception(self, item, number):
        made = self._made[number] = exceptions.made(self._value(item["described"])[0], self._session)
        if item["attributes"] is not None:
            self._later(lambda: exceptions.set_attributes(made, self._value(item["attributes"])[0]))
        return made

    def _container(self, item, number):
        made = {"dict": dict, "list": list, "set": set}[item["of"]]()
        self._later(self._put_into, made, item)
        return made

    def _put_into(self, made, item):
        content = self._value(item["content"])[0]
        if type(made) is list:
            made[:] = content
        else:
            made.update(content)

    def _attribute(self, item, number):
        return getattr(self._value(item["of"])[0], item["name"])

    def _lru(self, item, number):
        made = functools.lru_cache(maxsize=item["maxsize"], typed=item["typed"])
        return made(self._value(item["function"])[0])

    def _dispatch(self, item, number):
        base, registered = self._value(item["functions"])
        made = functools.singledispatch(base)
        for kind, function in registered:
            made.register(kind, function)
        return made


_MAKERS = {
    "function": Things._function,
    "definition": Things._definition,
    "made": Things._class_by_call,
    "reduced": Things._reduced,
    "exception": Things._exception,
    "container": Things._container,
    "attribute": Things._attribute,
    "lru": Things._lru,
    "dispatch": Things._dispatch,
}


def _reads_session(item):
    """Whether a function or class reads names that were not sent along."""
    return bool(item.get("missing")) or "globals(" in item.get("source", "")


def _fill_cells(cells, found):
    for cell, value in zip(cells, found):
        cell.cell_contents = value


def _factory(definition, name, free):
    """A function around a definition, with the definition's free names as arguments: it returns what is defined, and a
    function that sets these names later."""
    is_lambda = isinstance(definition, ast.Lambda)
    listed = ", ".join(one for one in free if one not in _ALONE)
    setting = "nonlocal %s\n        (%s,) = flame_values" % (listed, listed) if listed else "pass"
    arguments = ", ".join("%s=None" % one for one in free if is_lambda or one != name)
    factory = _tree(_FACTORY % (arguments, setting)).body[0]
    factory.body[-1].value.elts[0] = definition if is_lambda else ast.Name(name, ast.Load())
    if not is_lambda:
        factory.body.insert(0, definition)  # first, since its own name may be among those to set
    return factory


def _tree(source):
    return undisturbed(lambda: ast.parse(source))


def _parse(source):
    """The statements of a source that may be indented; multi-line strings keep their text."""
    if source[:1] in " \t":
        tree = _tree("if 1:\n" + source)
        ast.increment_lineno(tree, -1)
        return tree.body[0].body
    return _tree(source).body


def _strip_evaluated(definition, whole):
    """Remove what is evaluated with a definition: annotations; if ``whole``, a function's decorators and defaults."""
    if isinstance(definition, ast.ClassDef):
        for node in ast.walk(definition):
            if isinstance(node, _ANNOTATED):
                _strip_evaluated(node, False)
            elif isinstance(node, ast.AnnAssign):
                node.annotation = ast.Str("annotation") if sys.version_info < (3, 8) else ast.Constant("annotation")
        return
    arguments = definition.args
    if whole:
        arguments.defaults = [_none() for _ in arguments.defaults]
        arguments.kw_defaults = [default and _none() for default in arguments.kw_defaults]
    every = list(getattr(arguments, "posonlyargs", ())) + arguments.args + arguments.kwonlyargs
    for argument in every + [arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    if isinstance(definition, _ANNOTATED):
        definition.returns = None
        if whole:
            definition.decorator_list = []


def _none():
    return ast.parse("None", mode="eval").body
