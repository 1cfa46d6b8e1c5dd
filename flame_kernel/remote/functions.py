"""Sends functions and classes to the far side as source, together with the names that they use.

What a function uses is sent along: plain data, stand-ins, modules and objects of installed libraries (by name, to be
imported there), functions and classes of the user (in the same way), and objects that a call of one of these makes
(compiled patterns, loggers, partials).  A name that is not defined here may be defined in the session.  Anything else
is refused before anything is sent; the error names the variable and says what to do.  The agent's
``remote/functions.py`` describes the format.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import marshal
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from ..agent.wire import scalars, values
from ..errors import CannotTravel
from . import by_name, exceptions, source
from .callbacks import CalledBack, Handed, is_iterator, name_of
from .records import class_key

_LRU = type(functools.lru_cache(maxsize=1)(lambda: None))
# Containers that are made there before the functions that they hold, see `Shipment._variable`.
_CONTAINERS = frozenset({dict, list, set})
# A function that uses nothing else counts as one that changes nothing here, see `Shipment._goes_alone`.
_UNCHANGED = (*source.IMMUTABLE, *source.MADE, types.FunctionType, type)

Reference = Any


class RemoteFunction:
    """A user's function that runs on the far side when it is called; made by ``pi.remote``.

    ``local`` is the original function.  The names that it uses are looked up at each call, as in Python.
    """

    def __init__(self, function: Callable[..., Any], run: Callable[..., Any], where: str) -> None:
        functools.update_wrapper(self, function)
        self.local = function
        self._run = run
        self._where = where

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.local, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<remote function {getattr(self.local, '__qualname__', self.local)} at {self._where}>"

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)


class Shipment:
    """Collects the functions, classes and objects that one request needs. One use.

    reference  returns the id of a stand-in, or None for anything else
    dumps      a function made by ``security.trust.pickler``, under trust
    python     the far side's version, such as [3, 11, 7]: if it is ours, code without source can be sent under trust
    handed     takes the callbacks; None if callbacks are not possible

    Pass the method ``reference`` to `values.encode`; ``parts`` are then the parts to send.
    """

    def __init__(
        self,
        reference: Callable[[Any], str | None],
        dumps: Callable[[Any, Callable[[object], Any]], Callable[[object], bytes]] | None = None,
        python: Any = None,
        handed: Handed | None = None,
    ) -> None:
        self._stand_in = reference
        self._pickle = None if dumps is None else dumps(python, self._in_a_pickle)
        same = isinstance(python, list) and python[:2] == list(sys.version_info[:2])
        self._may_marshal = dumps is not None and same
        self._items: list[dict[str, Any]] = []
        self._spaces: list[dict[str, Any]] = []
        self._plain: list[Any] = []
        self._contents: list[list[Any]] = []
        self._numbers: dict[int, int] = {}
        self._space_of: dict[int, int] = {}
        self._kept: list[Any] = []  # keeps objects alive, so that their ids stay unique
        self._referred = 0
        self._named_in_pickles: dict[int, Any] = {}
        self._path: tuple[str, ...] = ()
        self._inside = False
        self._handed = handed
        self._described: frozenset[int] = frozenset()  # ids of the exceptions that are being described
        self._is_argument = False
        self._is_trial = False
        self._has_tables = self._may_change = False

    def __repr__(self) -> str:
        return f"<Shipment of {len(self._items)}>"

    def dumps(self, value: Any) -> bytes:
        """Pickle a value; only under trust."""
        assert self._pickle is not None
        self._referred += 1
        return self._pickle(value)

    def _in_a_pickle(self, one: object) -> Any:
        """The reference to put into a pickle for a stand-in, or a function or class with source; None: pickle it."""
        if not isinstance(one, (type, types.FunctionType)):
            return self._stand_in(one)
        if id(one) not in self._named_in_pickles:
            self._kept.append(one)
            self._named_in_pickles[id(one)] = self.reference(one) if source.can_be_read(one) else None
        return self._named_in_pickles[id(one)]

    @property
    def pickles(self) -> Callable[[Any], bytes] | None:
        return None if self._pickle is None else self.dumps

    def entry(self, function: Any) -> Reference:
        """The reference for a function to run on the far side; raises CannotTravel."""
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        if not callable(function):
            raise CannotTravel(f"{name} is not a function with source; give one made by def or lambda")
        self._inside = True
        try:
            made = self.reference(function)
        finally:
            self._inside = False
        if made is None:
            raise CannotTravel(f"{name} is not a function with source; give one made by def or lambda")
        return made

    def parts(self) -> list[list[Any]]:
        """The values to send after those of the request, each as its parts; empty if nothing is needed."""
        if not self._items:
            return []
        head = {"items": self._items, "spaces": self._spaces}
        plain = values.encode(self._plain, self._stand_in)
        return [values.encode(head), plain, *self._contents]

    # -- references ----------------------------------------------------------------------------------------------------

    def reference(self, one: Any) -> Reference | None:
        """The reference for something that is not plain data; None if there can be none."""
        made = self._stand_in(one)
        if made is None and not self._inside:
            made = self._called_back(one)
        while isinstance(one, RemoteFunction):
            one = one.local
        if made is None:
            made = self._named(one)
        if made is None:
            made = self._item(one)
        if made is not None:
            self._referred += 1
        return made

    def _named(self, one: Any) -> Reference | None:
        if isinstance(one, types.ModuleType):
            name = "os.path" if one is os.path else one.__name__
            return ["module", name, not by_name.is_installed(one.__name__)]
        return by_name.find(one)

    def _called_back(self, one: Any) -> Reference | None:
        """The reference for a function or iterator that must stay here as a callback; None if it need not."""
        if isinstance(one, CalledBack):
            one = one.function
        elif isinstance(one, types.FunctionType):
            if self._handed is None or self._goes_alone(one):
                return None
        elif is_iterator(one):
            return None if self._handed is None else self._handed.add(one, "iterator")
        elif (
            not callable(one)
            or isinstance(one, (type, RemoteFunction))
            or source.is_call(one)
            or by_name.find(one) is not None
            or isinstance(one, _LRU)
        ):
            return None
        if self._handed is None:
            raise scalars.NotPlain(
                f"{name_of(one)} stays on this side and can only be called back, while a call runs that it is given to"
            )
        return self._handed.add(one, "function")

    def _goes_alone(self, function: types.FunctionType) -> bool:
        """Whether a function can run there instead of being called back, because it changes nothing visible here."""
        trial = Shipment(self._stand_in)
        trial._inside = trial._is_trial = True
        try:
            trial.reference(function)
        except (CannotTravel, scalars.NotPlain):
            return False
        return not (trial._has_tables and trial._may_change)

    def _try(self, value: Any) -> None:
        """During a trial: note whether a value that a function uses is mutable."""
        if isinstance(value, (tuple, frozenset)):
            for one in value:
                self._try(one)
        elif issubclass(type(value), types.ModuleType):
            if not by_name.is_installed(value.__name__):
                raise scalars.NotPlain("a module of the user's own")
        elif not isinstance(value, _UNCHANGED) and self._named(value) is None:
            self._has_tables = True

    def _item(self, one: Any) -> Reference | None:
        number = self._numbers.get(id(one))
        if number is not None:
            return ["item", number]
        if isinstance(one, types.FunctionType):
            self._function(one)
        elif isinstance(one, BaseException):
            if id(one) in self._described:  # only a trial meets it here: it has no number
                if self._is_argument:
                    raise scalars.NotPlain("an exception that is an argument of its own")
                return ["item", 0]
            self._exception(one)
        elif isinstance(one, type):
            if not self._class(one):
                return None
        elif isinstance(one, _LRU):
            item = self._add(one, "lru", **one.cache_parameters())
            item["function"] = self._content([one.__wrapped__], "its function")
        elif self._inside or source.is_call(one) or (self._pickle is None and source.is_of_own_class(one)):
            return self._reduced(one)
        else:
            return None
        return ["item", self._numbers[id(one)]]

    def _add(self, one: Any, kind: str, **fields: Any) -> dict[str, Any]:
        self._numbers[id(one)] = len(self._items)
        self._kept.append(one)
        item = {"kind": kind, **fields}
        self._items.append(item)
        return item

    def _content(self, value: Any, name: str) -> list[Any]:
        """Add a value that something uses; return where the far side finds it. Raises CannotTravel."""
        before = self._referred
        if self._is_trial:
            for one in value:
                self._try(one)
        inside, self._inside = self._inside, True
        try:
            parts = values.encode(value, self.reference, self.pickles)
        except scalars.NotPlain as error:
            raise CannotTravel(
                f"{'.'.join(self._path)} uses {name}, which does not go to the far side: {error}; "
                "make it inside the function, or give what it is made from as an argument"
            ) from None
        finally:
            self._inside = inside
        if self._referred == before:
            self._plain.append(value)
            return ["plain", len(self._plain) - 1]
        self._contents.append(list(parts))
        return ["content", len(self._contents) - 1]

    def _variable(self, value: Any, name: str) -> list[Any]:
        """As `_content`, for the value of a variable.

        A container that holds functions is made there before them, because they may use it or add themselves to it.
        """
        number = self._numbers.get(id(value))
        place = self._content([value], name) if number is None or type(value) not in _CONTAINERS else None
        if place is not None and (place[0] == "plain" or type(value) not in _CONTAINERS):
            return place
        if place is not None:
            number = len(self._items)
            self._add(value, "container", of=type(value).__name__, content=place)
        self._contents.append(values.encode([object()], lambda one: ["item", number]))
        return ["content", len(self._contents) - 1]

    # -- functions -----------------------------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType) -> None:
        owner = source.owner(function)
        if owner is not None:
            item = self._add(function, "attribute", name=function.__name__)
            item["of"] = self._content([owner], function.__qualname__)
            return
        if source.is_dispatch(function):
            item = self._add(function, "dispatch")
            registry = function.registry  # type: ignore[attr-defined]
            registered = [[kind, one] for kind, one in registry.items() if kind is not object]
            item["functions"] = self._content([registry[object], registered], "what is registered")
            return
        try:
            text = source.of_function(function)
        except CannotTravel:
            if not self._may_marshal:
                raise
            self._bare(function)
            return
        is_decorated = by_name.is_installed(source.module_of(function)) and hasattr(function, "__wrapped__")
        if not (is_decorated and self._decorated(function)):
            self._filled(function, text)

    def _bare(self, function: types.FunctionType) -> None:
        """Add a function without source as bytecode; needs the same Python version there."""
        code = {"code": marshal.dumps(function.__code__)}
        self._filled(function, source.Source("", 1, function.__code__.co_filename), **code)

    def _filled(self, function: types.FunctionType, text: source.Source, **more: Any) -> None:
        code = function.__code__
        if self._is_trial:
            self._may_change = self._may_change or source.may_change(code)
            if source.sets_outer_names(code):
                raise scalars.NotPlain("a function that sets names that are not its own")
        item = self._add(function, "function", name=code.co_name, qualname=function.__qualname__, **more)
        item.update(source=text.text, file=text.file, line=text.line, free=list(code.co_freevars), cells=[])
        path, self._path = self._path, (*self._path, function.__name__)
        try:
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
                item["cells"].append(self._cell(cell, name))
            defaults = (function.__defaults__, function.__kwdefaults__)
            item["defaults"] = None if defaults == (None, None) else self._content(list(defaults), "a default")
            self._names(item, by_name.space_of(function), code, source.global_names(code))
            item["modules"] += by_name.required(function)
            item["attributes"] = self._attributes(function)
        finally:
            self._path = path

    def _attributes(self, function: types.FunctionType) -> dict[str, list[Any]]:
        """The attributes that a function was given. One that cannot be sent is left out unless its code has that name.
        Raises CannotTravel."""
        found, items = {}, len(self._items)
        for name, value in vars(function).items():
            try:
                found[name] = self._content([value], f"its attribute {name}")
            except (CannotTravel, scalars.NotPlain):
                if name in source.attributes(function.__code__):
                    raise
                self._numbers = {one: number for one, number in self._numbers.items() if number < items}
            items = len(self._items)
        return found

    def _cell(self, cell: types.CellType, name: str) -> list[Any]:
        try:
            content = cell.cell_contents
        except ValueError:
            raise CannotTravel(
                f"{'.'.join(self._path)} uses {name}, which has no value yet; call it when it has one"
            ) from None
        return self._variable(content, name)

    def _names(self, item: dict[str, Any], space: dict[str, Any], code: types.CodeType, names: set[str]) -> None:
        """Add the global names that something reads; names not defined here may be defined there."""
        number = self._space_of.setdefault(id(space), len(self._spaces))
        if number == len(self._spaces):
            self._kept.append(space)
            self._spaces.append({"name": str(space.get("__name__") or "flame_function"), "names": {}})
        item["space"], item["missing"], item["modules"] = number, [], []
        known = self._spaces[number]["names"]
        for name in sorted(names):
            if name in space and name not in ("__name__", "__builtins__"):
                if issubclass(type(space[name]), types.ModuleType):  # isinstance is also true of a stand-in
                    item["modules"] += source.submodules(space[name], source.attributes(code))
                if name not in known:
                    known[name] = None
                    known[name] = self._variable(space[name], name)
            elif not hasattr(builtins, name) and name not in ("__name__", "__builtins__"):
                item["missing"].append(name)

    def _decorated(self, function: types.FunctionType) -> bool:
        """Add a function with a library's decorator, which is applied again there; False if that is impossible."""
        inner = inspect.unwrap(function)
        closure = [cell.cell_contents for cell in function.__closure__ or ()]
        if not isinstance(inner, types.FunctionType) or all(source.is_simple(one) for one in closure):
            return False
        try:
            text = source.of_function(inner, dressed=True)
        except CannotTravel:
            return False
        if not text.text.lstrip().startswith("@"):
            return False
        self._definition(function, inner.__name__, text, inner.__globals__, dict(source.closure([inner])))
        return True

    # -- classes -------------------------------------------------------------------------------------------------------

    def _class(self, kind: type) -> bool:
        text = source.of_class(kind)
        if text is None:
            return self._class_without_source(kind)
        functions = list(source.functions_of(kind))
        # A named tuple made by a class statement has generated functions, whose module is not a real one: skip them.
        if issubclass(kind, tuple):
            functions = [one for one in functions if one.__globals__.get("__name__") == kind.__module__]
        space = functions[0].__globals__ if functions else vars(sys.modules.get(kind.__module__, builtins))
        local = dict(source.closure(functions))
        names = zip(text.bases, getattr(kind, "__orig_bases__", kind.__bases__), strict=False)
        local.update((name, base) for name, base in names if name is not None and name not in space)
        local.pop(kind.__name__, None)
        item = self._definition(kind, kind.__name__, text, space, local)
        item.update(key=class_key(kind), qualname=kind.__qualname__)
        changed = source.plain_attributes(kind)
        if changed:
            item["attributes"] = self._content(changed, "its attributes")
        return True

    def _definition(
        self, one: Any, name: str, text: source.Source, space: dict[str, Any], local: dict[str, Any]
    ) -> dict[str, Any]:
        """Add a definition whose source is run there unchanged."""
        future = source.has_future_annotations(one if isinstance(one, type) else inspect.unwrap(one))
        code = source.compiled(text, future)
        if not future and not all(
            hasattr(builtins, one) or one in space or one in local for one in source.names_at_once(code)
        ):
            future, code = True, source.compiled(text, True)  # perhaps an annotation has a name that is not defined yet
        names, annotated = source.global_names(code), source.annotated(text) if future else set()
        names |= {name for name in annotated & set(space) if self._named(space[name]) is not None}
        local = {name: one for name, one in local.items() if name in names}
        item = self._add(one, "definition", name=name, source=text.text, file=text.file, line=text.line, future=future)
        path, self._path = self._path, (*self._path, name)
        try:
            item["needs"] = sorted((source.names_at_once(code) | annotated) & names - {name})
            item["free"] = {free: self._content([value], free) for free, value in local.items()}
            self._names(item, space, code, names - set(local) - {name})
            if name in space and name in names:
                self._spaces[item["space"]]["names"].setdefault(name, self._content([space[name]], name))
        finally:
            self._path = path
        return item

    def _class_without_source(self, kind: type) -> bool:
        """Add a named tuple or enum class that a call has made; others may be pickled, under trust."""
        made = source.call_of(kind)
        if made is None:
            if self._pickle is not None:
                return False
            raise CannotTravel(
                f"{'.'.join(self._path) or 'it'} uses {kind.__qualname__}, a class of this side "
                f"({scalars.class_name(kind)}) whose source cannot be read; define it in a file or a notebook's cell"
            )
        item = self._add(kind, "made", key=class_key(kind), module=kind.__module__)
        item["call"] = self._content(made, kind.__qualname__)
        return True

    # -- exceptions, and objects that a call makes --------------------------------------------------------------------

    def _exception(self, error: BaseException) -> None:
        item = self._add(error, "exception")
        path, self._path = self._path, (*self._path, type(error).__qualname__)
        described, self._described = self._described, self._described | {id(error)}
        try:
            sent = exceptions.sent(error, self._travels)
            attributes = sent.pop("attributes")
            item["described"] = self._content([sent], "what it holds")
            self._is_argument = False
            item["attributes"] = self._content([attributes], "its attributes") if attributes else None
        finally:
            self._path, self._described = path, described

    def _travels(self, value: Any, is_argument: bool) -> bool:
        """Whether something in an exception can be sent. An exception that is being described cannot be an argument
        again, because it is made from its arguments."""
        trial = Shipment(self._stand_in, handed=self._handed)
        trial._described = self._described
        trial._is_argument = is_argument
        try:
            values.encode(value, trial.reference)
        except (CannotTravel, scalars.NotPlain):
            return False
        return True

    def _reduced(self, one: Any) -> Reference | None:
        """Add an object by Python's protocol ``__reduce_ex__``: the call that makes it, and its state."""
        if self._is_trial and not by_name.is_installed(type(one).__module__):
            raise scalars.NotPlain("an object of this side")
        try:
            found = source.reduction(one)
        except Exception:  # this runs the object's code, which may raise anything
            return None
        if not isinstance(found, tuple) or len(found) < 2:
            return None
        make, args, state, listed, pairs = (*found, None, None, None)[:5]
        item = self._add(one, "reduced")
        path, self._path = self._path, self._path or (type(one).__qualname__,)
        try:
            item["new"] = self._content([make, args], type(one).__qualname__)
            if (state, listed, pairs) != (None, None, None):
                content = [state, list(listed or ()), [list(pair) for pair in pairs or ()]]
                item["state"] = self._content(content, type(one).__qualname__)
        except CannotTravel:
            if self._path != path:  # not part of something else: the caller refuses it
                return None
            raise
        finally:
            self._path = path
        return ["item", self._numbers[id(one)]]
