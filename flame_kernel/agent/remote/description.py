"""Descriptions of an object: what the client needs to make a stand-in, and what ``help`` and a front end show."""

import importlib.util
import inspect
import pkgutil
import reprlib
import sys
import types

from ..output import display
from ..wire import values

# Most characters of a repr; most of a docstring or source.
MAX_REPR = 2000
MAX_TEXT = 100000
# A container longer than this is shown in part, because its full repr would take too long.
LONG = 1000

# The client is told of at most this many classes of an object: its own and their bases.
MAX_CLASSES = 30

# Methods that a stand-in has only if the object's class has them.
_PROTOCOL = """
__call__ __len__ __iter__ __next__ __reversed__ __contains__ __getitem__ __setitem__ __delitem__ __enter__ __bool__
__int__ __float__ __complex__ __index__ __bytes__ __fspath__ __array__ __round__ __abs__ __neg__ __pos__ __invert__
__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __floordiv__ __rfloordiv__ __mod__
__rmod__ __divmod__ __rdivmod__ __pow__ __rpow__ __matmul__ __rmatmul__ __lshift__ __rlshift__ __rshift__
__rrshift__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__
__imod__ __ipow__ __imatmul__ __ilshift__ __irshift__ __iand__ __ior__ __ixor__ __lt__ __le__ __gt__ __ge__ __eq__
__ne__ __hash__ __await__ __aiter__ __anext__ __aenter__
"""
PROTOCOL = _PROTOCOL.split()


def describe(thing, known, told):
    """What a client needs to make a stand-in: the object's id, kind, class and name, and the special methods it has.

    ``told`` describes a class, for ``isinstance`` there.
    """
    kind = type(thing)
    protocol = []
    for name in PROTOCOL:
        method = _method(kind, name)
        if method is not None and method is not vars(object).get(name):
            protocol.append(name)
    found = {"id": known, "kind": _kind(thing), "class": values.class_name(kind)[:500], "protocol": protocol}
    if found["kind"] == "object":
        found["classes"] = [told(one) for one in kind.__mro__[:MAX_CLASSES] if one is not object]
    else:
        name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
        found["name"] = name[:500] if isinstance(name, str) else ""
        module = getattr(thing, "__module__", None)
        found["module"] = module[:500] if isinstance(module, str) else ""
    return found


def _method(kind, name):
    """A special method, looked up as Python does it: in the class and its bases, not in the metaclass."""
    for base in kind.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


def _kind(thing):
    if isinstance(thing, types.ModuleType):
        return "module"
    if isinstance(thing, type):
        return "class"
    routine = inspect.isroutine(thing) or (callable(thing) and hasattr(type(thing), "__get__"))
    return "routine" if routine and isinstance(getattr(thing, "__name__", None), str) else "object"


def about(thing, what):
    """One fact about an object, as text or plain data: repr, doc, signature or source. Raises OSError or TypeError if
    there is no source."""
    if what == "repr":
        return short_repr(thing)
    if what == "doc":
        doc = inspect.getdoc(thing)
        return doc[:MAX_TEXT] if isinstance(doc, str) else None
    if what == "signature":
        return _signature(thing)
    if what == "source":
        return inspect.getsource(thing)[:MAX_TEXT]
    raise values.BadValue("nothing is known as %r" % (what,))


def short_repr(thing):
    """``repr`` in at most MAX_REPR characters; if it raises, a text that says so."""
    try:
        if type(thing) in (list, tuple, dict, set, frozenset, str, bytes, bytearray) and len(thing) > LONG:
            text = reprlib.repr(thing)
        else:
            text = repr(thing)
    except Exception as e:  # the user's __repr__ may raise anything; its class is shown
        text = "<%s whose repr raises %s>" % (values.class_name(type(thing)), type(e).__name__)
    return text if len(text) <= MAX_REPR else text[: MAX_REPR - 4] + " ..."


def _signature(thing):
    """``[[[name, kind, repr of the default or None, annotation or None], …], annotation of the result or None]``; None
    if there is no signature."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    empty = inspect.Parameter.empty
    parameters = []
    for one in signature.parameters.values():
        default = None if one.default is empty else short_repr(one.default)
        parameters.append([one.name, int(one.kind), default, _annotation(one.annotation)])
    return [parameters, _annotation(signature.return_annotation)]


def _annotation(annotation):
    if annotation is inspect.Parameter.empty:
        return None
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)[:500]


def modules():
    """The names of the modules that can be imported, sorted."""
    names = set(sys.builtin_module_names)
    names.update(found.name for found in pkgutil.iter_modules())
    return sorted(name for name in names if name.isidentifier())


def has_module(name):
    """Whether a module of that name exists; to find out, the package around it is imported."""
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def bundle(thing):
    """The rich forms of an object for a front end: ``{MIME type: text or data}`` and their metadata."""
    data, metadata = display.format_bundle(thing)
    return [data, metadata]
