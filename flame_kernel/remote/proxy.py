"""RemoteObject: stands here for an object of the far side.

All operations are done on the far side: attributes, calls, items, operators, ``len``, ``in``, iteration, ``with``.  The
result is a plain value or another stand-in.  A stand-in's class has the same special methods as the object's class, so
``callable(x)`` or ``isinstance(x, Iterable)`` give the same answer as there.

Two methods are our own: ``x.fetch()`` returns the value, and ``x.ref()`` returns a stand-in even for a plain value.
(``pi.builtins.getattr(x, "fetch")`` gets an attribute of that name.)  If the class defines equality, order or hashes,
the far side decides; otherwise two stand-ins for the same object are equal.

A *chain* is a stand-in that has not been evaluated yet.  If the bytecode shows that the next operation follows at once,
as in ``pi.modules.os.environ["HOME"]``, the whole chain is one request (``lookahead.py``).
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

from ..agent.wire.tables import tensors
from ..errors import FlameError, cap
from ..security.completions import identifiers
from ..terminal import clean, coloured_text, one_line, plain_text
from . import lookahead
from .awaiting import awaited
from .calls import Calls, Step
from .records import nearest_class

# Dunder names that the far side is asked for. Others raise AttributeError here, because libraries try many.
_DUNDER = """
__name__ __qualname__ __file__ __version__ __path__ __all__ __self__ __func__ __spec__ __annotations__ __bases__ __mro__
__code__ __defaults__ __closure__ __package__ __author__ __cause__ __context__ __traceback__
"""
_ASKED = frozenset(_DUNDER.split())
# Prefixes of names that front ends try on every object to find how to show it: answered without a request.
_PRIVATE = ("_repr_", "_ipython_", "_flame_", "__")
# Time limit in seconds for displaying an object: its repr, its names for Tab, its documentation.
_LOOK = 5.0
# The most names of an object that are offered, and characters of a docstring that are shown.
_NAMES_MOST, _DOC_MOST = 20_000, 100_000
_ITEMS_MOST, _GROWTH = 1024, 16
# Most items in a container's first batch. An iterator's first batch has one, because later items may take long.
_ITEMS_FIRST = 256


class Handle:
    """Keeps an object of the far side alive while any stand-in for it exists here."""

    __slots__ = ("calls", "known")

    def __init__(self, calls: Calls, known: str) -> None:
        self.calls = calls
        self.known = known
        calls.keep()

    def __del__(self) -> None:
        self.calls.forget(self.known)


class _Meta(type):
    """The metaclass of stand-ins, so that ``__doc__`` of a class differs from ``__doc__`` of its instances."""

    @property
    def __doc__(cls) -> str | None:  # type: ignore[override]
        return __doc__  # the module's; for an instance the far side is asked


class RemoteObject(metaclass=_Meta):
    """A stand-in; see the module. Made only by ``pi.modules``, ``pi.builtins``, calls and items."""

    __slots__ = ("__weakref__", "_flame_about", "_flame_calls", "_flame_handle", "_flame_root", "_flame_steps")

    _flame_calls: Calls
    _flame_root: list[Any]
    _flame_steps: tuple[Step, ...]
    _flame_about: dict[str, Any]
    _flame_handle: Handle | None

    def __init__(
        self,
        calls: Calls,
        root: list[Any],
        steps: tuple[Step, ...] = (),
        about: dict[str, Any] | None = None,
        handle: Handle | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "_flame_calls", calls)
        put(self, "_flame_root", root)
        put(self, "_flame_steps", steps)
        put(self, "_flame_about", about or {})
        put(self, "_flame_handle", handle)

    # -- our own methods ---------------------------------------------------------------------------------------------

    def fetch(self, *, device: str | None = None) -> Any:
        """The value itself, however large; tensors on ``device``. CannotTravel if not plain data, without trust."""
        with tensors.on(device):  # None: on the device that they were on
            return self._flame_calls.perform(self._flame_root, self._flame_steps, "value")

    def ref(self) -> RemoteObject:
        """The object as a stand-in, even if it is plain data."""
        if self._flame_handle is not None and not self._flame_steps:
            return self
        made = self._flame_calls.perform(self._flame_root, self._flame_steps, "keep")
        assert isinstance(made, RemoteObject)
        return made

    # -- attributes --------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_PRIVATE) and name not in _ASKED:
            raise AttributeError(f"{_words(self)} has no attribute {name!r} here")
        step = ("get", name)
        if lookahead.goes_on(sys._getframe(1)):
            return _chain(self, step)
        value = _do(self, step)
        # ``help`` and front ends print these.
        return plain_text(value) if name in _ASKED and isinstance(value, str) else value

    def __setattr__(self, name: str, value: Any) -> None:
        _do(self, ("set", name, value), "none")

    def __delattr__(self, name: str) -> None:
        _do(self, ("delete", name), "none")

    def __dir__(self) -> list[str]:
        """The attributes there that are valid identifiers, because Tab inserts them into code."""
        found = _look(self, ("op", "dir"), [])
        return sorted({*identifiers(found)[:_NAMES_MOST], "fetch", "ref"})

    # -- display -----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        text = _look(self, ("about", "repr"), None)
        calls = self._flame_calls
        if text is None:
            gone = calls.session.gone is not None
            return f"<{_words(self)} at {calls.name}, {'gone' if gone else 'which does not answer'}>"
        return f"<remote {coloured_text(str(text))} at {calls.name}>"

    def __str__(self) -> str:
        """The object's text, cleaned for printing; ``pi.builtins.str(x)`` is the unchanged text."""
        return clean(_of_kind(self, ("op", "str"), str))

    def __format__(self, spec: str) -> str:
        return clean(_of_kind(self, ("op", "format", spec), str))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """The MIME bundle for a notebook: the object's own, but with our repr as text."""
        found = _look(self, ("rich",), None)
        if not (isinstance(found, list) and len(found) == 2 and all(isinstance(one, dict) for one in found)):
            return {"text/plain": repr(self)}
        calls = self._flame_calls
        data, metadata = calls.bundle(*found)
        return {**data, "text/plain": f"{data.get('text/plain', '')}\n(at {calls.name})"}, metadata

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """The object's docstring on the far side."""
        found = _look(self, ("about", "doc"), None)
        return cap(plain_text(found), _DOC_MOST) if isinstance(found, str) else None

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature on the far side; defaults and annotations are shown by their repr there."""
        found = _look(self, ("about", "signature"), None)
        if found is None:
            raise AttributeError("__signature__")
        return _signature(found)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For ``isinstance``: the object's class, or the nearest base of it, if that class is loaded here."""
        return self._flame_about.get("local") or type(self)

    # -- what is refused ---------------------------------------------------------------------------------------------

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"{_words(self)} stays where it is: fetch() brings its value, if it is plain")

    # -- identity, unless the class there defines its own ------------------------------------------------------------

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, RemoteObject):
            return NotImplemented
        return _identity(self) == _identity(other)

    def __hash__(self) -> int:
        return hash(_identity(self))


def _words(one: RemoteObject) -> str:
    about = one._flame_about
    name = about.get("name") or about.get("class") or ".".join(str(step[1]) for step in one._flame_steps[:3])
    return f"remote {name}".strip()


def _identity(one: RemoteObject) -> tuple[Any, ...]:
    kept = one.ref()
    return id(kept._flame_calls), kept._flame_root[-1]


def _do(one: RemoteObject, step: Step, mode: str = "auto", **options: Any) -> Any:
    return one._flame_calls.perform(one._flame_root, (*one._flame_steps, step), mode, **options)


def _of_kind(one: RemoteObject, step: Step, kind: type[Any]) -> Any:
    """The result of a step, which must be of the class ``kind``; UnsafeAnswer otherwise."""
    return one._flame_calls.demand(one._flame_root, (*one._flame_steps, step), kind)


def _look(one: RemoteObject, step: Step, otherwise: Any) -> Any:
    """The result of a step for display; ``otherwise`` if it fails or takes too long."""
    calls = one._flame_calls
    try:
        if calls.session.gone is not None:
            return otherwise
        return _do(one, step, "value", timeout=_LOOK)
    except Exception:  # displaying must not fail because the server does
        return otherwise


class _Written:
    """Stands for a default or annotation of the far side, of which only the repr is known."""

    def __init__(self, text: Any) -> None:
        self._text = one_line(str(text), 500)

    def __repr__(self) -> str:
        return self._text


def _signature(found: Any) -> inspect.Signature:
    empty = inspect.Parameter.empty
    try:
        listed, result = found
        parameters = [
            inspect.Parameter(
                name,
                list(inspect._ParameterKind)[kind],
                default=empty if default is None else _Written(default),
                annotation=empty if annotation is None else _Written(annotation),
            )
            for name, kind, default, annotation in listed
        ]
        return inspect.Signature(parameters, return_annotation=empty if result is None else _Written(result))
    except (TypeError, ValueError, IndexError) as error:
        raise AttributeError(f"__signature__ ({error})") from None


def _chain(one: RemoteObject, *steps: Step) -> RemoteObject:
    return Chain(one._flame_calls, one._flame_root, one._flame_steps + steps, None, one._flame_handle)


def chain(calls: Calls, root: list[Any], *steps: Step) -> RemoteObject:
    """A stand-in for the result of ``steps``, which are not evaluated yet."""
    return Chain(calls, root, steps)


def stand_in(calls: Calls, description: dict[str, Any]) -> RemoteObject:
    """Make the stand-in for an object that the far side holds for us. Called by `Calls`."""
    known, kind, name = description["id"], description["kind"], description["class"]
    protocol = description["protocol"]
    if not (isinstance(known, str) and isinstance(name, str) and isinstance(protocol, list)):
        raise TypeError("a description")
    about: dict[str, Any] = {key: one_line(description.get(key) or "", 500) for key in ("class", "name", "module")}
    if "__await__" not in protocol:  # asyncio would use a coroutine or a future itself, without awaiting it
        about["local"] = types.ModuleType if kind == "module" else nearest_class(description.get("classes"))
    handle = Handle(calls, known)
    methods = frozenset(one for one in protocol if isinstance(one, str) and one in _METHODS)
    return _class(methods, kind == "routine")(calls, ["held", known], (), about, handle)


def reference(calls: Calls, one: Any) -> str | None:
    """The id of a stand-in that is an argument; None for anything else."""
    if not issubclass(type(one), RemoteObject):
        return None
    if one._flame_calls is not calls:
        raise FlameError(
            f"{_words(one)} is at {one._flame_calls.name} and does not go to {calls.name}; fetch() brings its value"
        )
    kept: RemoteObject = one.ref()
    return str(kept._flame_root[-1])


# -- special methods -------------------------------------------------------------------------------------------------


def _call(self: RemoteObject, /, *args: Any, **kwargs: Any) -> Any:
    """Call it there."""
    step = ("call", args, kwargs)
    if lookahead.next_attribute(sys._getframe(1)) in ("fetch", "ref"):
        return _chain(self, step)
    return _do(self, step)


def _get_item(self: RemoteObject, key: Any) -> Any:
    step = ("item", key)
    if lookahead.goes_on(sys._getframe(1)):
        return _chain(self, step)
    return _do(self, step)


def _set_item(self: RemoteObject, key: Any, value: Any) -> None:
    _do(self, ("set_item", key, value), "none")


def _delete_item(self: RemoteObject, key: Any) -> None:
    _do(self, ("delete_item", key), "none")


def _exit(self: RemoteObject, kind: Any, error: Any, tb: Any) -> Any:
    ended = None if error is None else self._flame_calls.sent(error)
    return bool(_do(self, ("exit", ended), "auto"))


def _async_enter(self: RemoteObject) -> Any:
    return awaited(self, ("op", "aenter"))


def _async_exit(self: RemoteObject, kind: Any, error: Any, tb: Any) -> Any:
    ended = None if error is None else self._flame_calls.sent(error)
    return awaited(self, ("aexit", ended))


def _iterate(self: RemoteObject) -> Iterator[Any]:
    is_container = bool(self._flame_about) and "__next__" not in self._flame_about_protocol
    return RemoteIterator(self, _ITEMS_FIRST if is_container else 1)


def _await(self: RemoteObject) -> Any:
    return awaited(self).__await__()


def _async_iterate(self: RemoteObject) -> Any:
    return _do(self, ("op", "aiter"), "keep")


def _async_next(self: RemoteObject) -> Any:
    return awaited(self, ("op", "anext"))


def _fspath(self: RemoteObject) -> str:
    raise TypeError(f"{_words(self)} is a path of the far side: str() is its text")


def _array(self: RemoteObject, dtype: Any = None, copy: Any = None) -> Any:
    """``__array__``: fetch the values for numpy."""
    import numpy

    return numpy.asarray(_do(self, ("get", "__array__"), "keep")().fetch(), dtype)


class RemoteIterator:
    """Iterates on the far side; items come in batches, which grow while items come quickly.

    So an iterator there may be some items ahead of this one; ``next(x)`` on its stand-in takes only one.
    """

    def __init__(self, over: RemoteObject, count: int) -> None:
        self._calls = over._flame_calls
        self._root, self._steps = over._flame_root, (*over._flame_steps, ("op", "iter"))
        self._keep: RemoteObject = over
        self._count = count
        self._items: list[Any] = []
        self._done = False
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<iterator of {self._keep!r}>"

    def __iter__(self) -> RemoteIterator:
        return self

    def __next__(self) -> Any:
        while not self._items:
            if self._error is not None:
                error, self._error, self._done = self._error, None, True
                raise error
            if self._done:
                raise StopIteration
            self._more()
        return self._items.pop()

    def _more(self) -> None:
        hold = bool(self._steps)
        reply = self._calls.perform(self._root, self._steps, "items", count=self._count, hold=hold)
        try:
            self._take(reply)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, FlameError):
                raise
            raise self._calls.wrong_shape(error) from None

    def _take(self, reply: dict[str, Any]) -> None:
        buffers, entries, items = list(reply.get("buffers") or ()), reply["entries"], []
        if entries is None:
            # All items are one value; the buffers after its parts are those of an exception.
            items = self._calls.decoded(buffers[: reply["parts"]])
            del buffers[: reply["parts"]]
        else:
            for entry in entries:
                held = entry if isinstance(entry, dict) else {}
                count = held.get("parts") if held else entry
                if count is None:
                    items.append(stand_in(self._calls, held))
                else:
                    items.append(self._calls.decoded(buffers[:count], held))
                    del buffers[:count]
        if "error" in reply:
            self._error = self._calls.error(reply["error"], buffers)
        if type(items) is not list:
            raise TypeError("items that cannot be read")
        self._items = items[::-1]
        self._done = bool(reply["done"])
        if "iterator" in reply:
            self._keep = stand_in(self._calls, reply["iterator"])
            self._root, self._steps = self._keep._flame_root, ()
        self._count = 1 if reply["slow"] else min(_GROWTH * self._count, _ITEMS_MOST)


def _operation(name: str) -> Callable[..., Any]:
    return lambda self, *args: _do(self, ("op", name, *args))


def _in_place(name: str) -> Callable[..., Any]:
    """The name stays bound to a stand-in, also for what is plain: ``items += [1]`` changes the list there."""
    return lambda self, other: _do(self, ("op", name, other), "keep")


def _reflected(name: str) -> Callable[..., Any]:
    return lambda self, other: _do(self, ("reversed", name, other))


def _as(kind: type, name: str) -> Callable[..., Any]:
    """A special method whose result must be of a built-in class."""
    return lambda self: _of_kind(self, ("op", name), kind)


# Operators by their names in `operator`: those with a reflected form, and those with an in-place form.
_ARITHMETIC = "add sub mul truediv floordiv mod pow matmul lshift rshift xor and or"
_COMPARISONS = "lt le gt ge eq ne"
_UNARY = "index bytes round abs neg pos invert"

_METHODS: dict[str, Callable[..., Any]] = {
    "__call__": _call,
    "__getitem__": _get_item,
    "__setitem__": _set_item,
    "__delitem__": _delete_item,
    "__iter__": _iterate,
    "__enter__": _operation("enter"),
    "__fspath__": _fspath,
    "__await__": _await,
    "__aiter__": _async_iterate,
    "__anext__": _async_next,
    "__aenter__": _async_enter,
    "__array__": _array,
    "__len__": _as(int, "len"),
    "__bool__": _as(bool, "bool"),
    "__int__": _as(int, "int"),
    "__float__": _as(float, "float"),
    "__complex__": _as(complex, "complex"),
    "__hash__": _as(int, "hash"),
    "__contains__": _operation("contains"),
    "__next__": _operation("next"),
    "__reversed__": _operation("reversed"),
    "__divmod__": _operation("divmod"),
    "__rdivmod__": _reflected("divmod"),
    **{f"__{name}__": _operation(name) for name in (_COMPARISONS + " " + _UNARY).split()},
    **{f"__i{name}__": _in_place("i" + name) for name in _ARITHMETIC.split()},
}
for _name in _ARITHMETIC.split():
    _function = _name + "_" if _name in ("and", "or") else _name
    _METHODS[f"__{_name}__"] = _operation(_function)
    _METHODS[f"__r{_name}__"] = _reflected(_function)


@functools.lru_cache(maxsize=1024)
def _class(methods: frozenset[str], routine: bool) -> type[RemoteObject]:
    """The class of stand-ins for objects whose class has ``methods``."""
    body: dict[str, Any] = {"__slots__": (), "__module__": __name__, "_flame_about_protocol": methods}
    body |= {name: _METHODS[name] for name in methods} | {"__doc__": RemoteObject.__dict__["__doc__"]}  # else None
    if "__enter__" in methods:
        body["__exit__"] = _exit
    if "__aenter__" in methods:
        body["__aexit__"] = _async_exit
    if routine:  # for ``help``, which shows a routine's own name, signature and docstring
        body["__class__"] = property(lambda self: types.BuiltinFunctionType)
        body["__name__"] = property(lambda self: self._flame_about.get("name", "").rpartition(".")[2])
    if "__eq__" in body:
        body.setdefault("__hash__", None)
    return cast("type[RemoteObject]", _Meta("RemoteObject", (RemoteObject,), body))


Chain = _class(frozenset(_METHODS), False)
