"""Finds the source of local functions and classes (in files, cells, archives, at the prompt), and what they hold."""

from __future__ import annotations
import __future__

import ast
import collections
import copyreg
import dis
import functools
import gc
import inspect
import linecache
import logging
import os
import re
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import CannotTravel
from . import by_name

_FUTURE = __future__.annotations.compiler_flag
# Python 3.11 sometimes fails if two threads parse to syntax trees at once (SystemError, "recursion depth mismatch").
_PARSING = threading.Lock()
# Names of code objects that run while a class body is executed.
_AT_ONCE = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>")

# Modules of the classes that a user's class may derive from if its objects are sent as arguments.
_PLAIN_BASES = ("builtins", "abc", "typing", "collections", "collections.abc")
# Objects that are made completely by one call, so they can be sent as that call.
MADE = (re.Pattern, logging.Logger, types.GenericAlias)
# Immutable types: a function that uses only such values changes nothing here, so it need not be a callback.
IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset, range, types.ModuleType)


@dataclass(frozen=True)
class Source:
    """The text of a definition, its first line number, and its file name."""

    text: str
    line: int
    file: str
    bases: tuple[str | None, ...] = ()


def of_function(function: types.FunctionType, dressed: bool = False) -> Source:
    """The source of a function, without decorators unless ``dressed``; raises CannotTravel."""
    code = function.__code__
    try:
        lines = inspect.findsource(code)[0]
        whole = "".join(lines)
        tree = _tree(whole)
    except (OSError, TypeError, SyntaxError, ValueError, IndexError) as error:
        raise CannotTravel(
            f"the source of {function.__qualname__} cannot be read ({error}); define it in a file or a notebook's cell"
        ) from None
    file = os.path.basename(code.co_filename)
    if code.co_name == "<lambda>":
        node = _lambda(function, tree, whole)
        return Source(f"({ast.get_source_segment(whole, node)})", node.lineno, file)
    for found in ast.walk(tree):
        if isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef)) and found.name == code.co_name:
            first = _first_line(found)
            if code.co_firstlineno in (first, found.lineno):
                start = first if dressed else found.lineno
                return Source("".join(lines[start - 1 : found.end_lineno]), start, file)
    raise CannotTravel(f"{function.__qualname__} is not in its file any more; reload that, or define it again")


def of_class(kind: type) -> Source | None:
    """The source of a class, with its decorators; None if it has none."""
    for file in _files(kind):
        lines = linecache.getlines(file, vars(sys.modules.get(kind.__module__, types)))
        try:
            tree = _tree("".join(lines))
        except (SyntaxError, ValueError):
            continue
        found = list(_classes(tree, kind.__qualname__.replace("<locals>.", "").split(".")))
        held = [node for node in found if any(_first_line(node) <= line <= _end(node) for line in _lines(kind, file))]
        for node in (held or found)[-1:]:
            first = _first_line(node)
            text = "".join(lines[first - 1 : node.end_lineno])
            bases = tuple(base.id if isinstance(base, ast.Name) else None for base in node.bases)
            return Source(text, first, os.path.basename(file), bases)
    return None


def can_be_read(one: type | types.FunctionType) -> bool:
    """Whether a function or class is the user's own and has a source."""
    if by_name.is_installed(one.__module__):
        return False
    if isinstance(one, type):
        return of_class(one) is not None
    try:
        of_function(one)
    except CannotTravel:
        return False
    return True


def functions_of(kind: type) -> Iterator[types.FunctionType]:
    """The functions in a class's body, also those in properties, class methods and under decorators."""
    for one in list(vars(kind).values()):
        if isinstance(one, (classmethod, staticmethod)):
            one = one.__func__
        for inner in (one.fget, one.fset, one.fdel) if isinstance(one, property) else (one,):
            inner = inspect.unwrap(inner) if callable(inner) and not isinstance(inner, type) else inner
            if isinstance(inner, types.FunctionType) and inner.__qualname__.startswith(kind.__qualname__ + "."):
                yield inner


def has_future_annotations(one: types.FunctionType | type) -> bool:
    """Whether ``from __future__ import annotations`` was in effect for the definition."""
    if isinstance(one, types.FunctionType):
        return bool(one.__code__.co_flags & _FUTURE)
    feature = vars(sys.modules.get(one.__module__, types)).get("annotations")
    methods = any(method.__code__.co_flags & _FUTURE for method in functions_of(one))
    return methods or getattr(feature, "compiler_flag", 0) == _FUTURE


def compiled(source: Source, future: bool) -> types.CodeType:
    """Compile a definition alone, so that the names it uses are global."""
    text = source.text if source.text[:1] not in " \t" else "if 1:\n" + source.text
    code: types.CodeType = compile(text, source.file, "exec", _FUTURE if future else 0, dont_inherit=True)
    return code


def annotated(text: Source) -> set[str]:
    """The names in the annotations of a definition."""
    tree = _tree(text.text if text.text[:1] not in " \t" else "if 1:\n" + text.text)
    found = [node.annotation for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    return {name.id for one in found for name in ast.walk(one) if isinstance(name, ast.Name)}


def global_names(code: types.CodeType) -> set[str]:
    """The global names that code reads, also in functions defined in it."""
    names = _read(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= global_names(constant)
    return names


def attributes(code: types.CodeType) -> set[str]:
    """The names of attributes in code and in functions defined in it; contains other names, too."""
    return set(code.co_names).union(*(attributes(one) for one in code.co_consts if isinstance(one, types.CodeType)))


def names_at_once(code: types.CodeType) -> set[str]:
    """The names that are read when a definition is executed, so not those in function bodies."""
    names = _read(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            is_body = not constant.co_flags & inspect.CO_OPTIMIZED
            if is_body or constant.co_name in _AT_ONCE:
                names |= names_at_once(constant)
    return names


def sets_outer_names(code: types.CodeType) -> bool:
    """Whether a function sets global or nonlocal names."""
    free = set(code.co_freevars)
    for one in dis.get_instructions(code):
        if one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (one.opname == "STORE_DEREF" and one.argval in free):
            return True
    return any(isinstance(one, types.CodeType) and sets_outer_names(one) for one in code.co_consts)


def may_change(code: types.CodeType) -> bool:
    """Whether code may change a mutable object that it uses, judging by its instructions and names."""
    if any(one.opname in _STORES for one in dis.get_instructions(code)) or not _CHANGES.isdisjoint(code.co_names):
        return True
    return any(isinstance(one, types.CodeType) and may_change(one) for one in code.co_consts)


_STORES = frozenset({"STORE_SUBSCR", "DELETE_SUBSCR", "STORE_ATTR", "DELETE_ATTR", "STORE_SLICE"})
_CHANGE_WORDS = """
add append appendleft clear difference_update discard extend extendleft fill heapify heappop heappush heappushpop
heapreplace insert insort intersection_update itemset move_to_end pop popitem popleft put remove resize reverse rotate
send setattr setdefault setitem shuffle sort subtract symmetric_difference_update update write writelines
"""
_CHANGES = frozenset(_CHANGE_WORDS.split())


def _read(code: types.CodeType) -> set[str]:
    loads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS")
    return {str(one.argval) for one in dis.get_instructions(code) if one.opname in loads}


@functools.lru_cache(maxsize=32)
def _tree(text: str) -> ast.Module:
    with _PARSING:
        return ast.parse(text)


def _first_line(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _end(node: ast.ClassDef) -> int:
    return node.end_lineno or node.lineno


def _files(kind: type) -> Iterator[str]:
    """Files that may define the class: those of its methods, its module's, and the last input at a prompt."""
    seen = dict.fromkeys(function.__code__.co_filename for function in functions_of(kind))
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        seen[file] = None
    elif not seen:
        seen.update(dict.fromkeys(name for name in reversed(linecache.cache) if not os.path.exists(name)))
    return iter(seen)


def _lines(kind: type, file: str) -> list[int]:
    """Line numbers in a file where the class's methods begin; from Python 3.13 on, where the class begins."""
    first = vars(kind).get("__firstlineno__")
    lines = [one.__code__.co_firstlineno for one in functions_of(kind) if one.__code__.co_filename == file]
    return [first] if isinstance(first, int) else lines


def _classes(node: ast.AST, names: list[str]) -> Iterator[ast.ClassDef]:
    """The definitions of a class in a syntax tree, by its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if child.name != names[0]:
                continue
            if len(names) > 1:
                yield from _classes(child, names[1:])
            elif isinstance(child, ast.ClassDef):
                yield child
        elif not isinstance(child, ast.expr):
            yield from _classes(child, names)


def _lambda(function: types.FunctionType, tree: ast.AST, whole: str) -> ast.Lambda:
    """The node of a lambda: the only one in its line, or the only one there that compiles to the same code."""
    code = function.__code__
    near = [one for one in ast.walk(tree) if isinstance(one, ast.Lambda) and one.lineno == code.co_firstlineno]
    if len(near) > 1:
        places = _places(code)
        if places:
            near = [one for one in near if all(_holds(one.body, place) for place in places)]
            near.sort(key=lambda one: len(ast.get_source_segment(whole, one) or ""))
            near = near[:1]  # nested lambdas: positions in the inner one are also in the outer one
        else:
            near = [one for one in near if _compiles_to(one, code, whole)]
    if len({ast.get_source_segment(whole, one) for one in near}) != 1:
        raise CannotTravel("the source of this lambda cannot be told from others in its line; use def, or a line each")
    return near[0]


def _places(code: types.CodeType) -> list[tuple[int, int]]:
    """The source positions of the code, ``(line, column in bytes)``; empty before Python 3.11."""
    positions: Any = getattr(code, "co_positions", list)()
    return [(line, column) for line, _, column, end in positions if line and end]


def _holds(node: ast.expr, place: tuple[int, int]) -> bool:
    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= place <= end


def _compiles_to(node: ast.Lambda, code: types.CodeType, whole: str) -> bool:
    """Whether a lambda compiles to this code, inside a function with the same free names."""
    free = ", ".join(code.co_freevars) or "_"
    outer = compile(f"lambda {free}: ({ast.get_source_segment(whole, node)})", "lambda", "eval").co_consts[0]
    facts = (code.co_code, code.co_names, code.co_varnames, _constants(code))
    return any(
        (one.co_code, one.co_names, one.co_varnames, _constants(one)) == facts
        for one in getattr(outer, "co_consts", ())
        if isinstance(one, types.CodeType)
    )


def _constants(code: types.CodeType) -> tuple[Any, ...]:
    return tuple(one.co_code if isinstance(one, types.CodeType) else (type(one), one) for one in code.co_consts)


# -- what functions and classes hold ----------------------------------------------------------------------------------


def submodules(module: types.ModuleType, attributes: set[str]) -> list[str]:
    """The imported submodules of a package that code with these attribute names may use."""
    if not hasattr(module, "__path__"):
        return []
    before = module.__name__ + "."
    below = [name for name, one in list(sys.modules.items()) if name.startswith(before) and one is not None]
    return sorted(name for name in below if attributes.issuperset(name[len(before) :].split(".")))


def owner(function: types.FunctionType) -> type | None:
    """The user's class that has the function as a method; None if it is not a method."""
    above, _, name = function.__qualname__.rpartition(".")
    found: Any = sys.modules.get(function.__module__ or "")
    for part in above.split(".") if above else ():
        found = getattr(found, part, None)
    if not isinstance(found, type) or found.__dict__.get(name) is not function:
        return None
    return found


def is_dispatch(function: types.FunctionType) -> bool:
    """Whether ``functools.singledispatch`` made it."""
    return function.__code__.co_filename == functools.__file__ and hasattr(function, "registry")


def module_of(function: types.FunctionType) -> str:
    """The name of the module in which it was defined."""
    return str(function.__globals__.get("__name__") or "__main__")


def is_simple(one: Any) -> bool:
    """Whether a value in a decorator's closure is a function, a class or plain data."""
    return isinstance(one, (types.FunctionType, type)) or type(one) in IMMUTABLE or type(one) in (dict, list, set)


def closure(functions: list[types.FunctionType]) -> Iterator[tuple[str, Any]]:
    """The names and values of the variables that functions take from the functions around them."""
    for function in functions:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                try:
                    yield name, cell.cell_contents
                except ValueError:
                    continue


def plain_attributes(kind: type) -> dict[str, Any]:
    """The plain data attributes of a class now, as they may differ from its source."""
    if type(kind) is not type or issubclass(kind, tuple):
        return {}
    return {
        name: one
        for name, one in vars(kind).items()
        if type(one) in IMMUTABLE[:7] and not (name.startswith("__") and name.endswith("__"))
    }


def call_of(kind: type) -> list[Any] | None:
    """What makes a named tuple or enum class without source: what to call, its arguments, and its defaults."""
    fields, members = getattr(kind, "_fields", None), getattr(kind, "__members__", None)
    if kind.__bases__ == (tuple,) and isinstance(fields, tuple):
        defaults = tuple(getattr(kind, "_field_defaults", {}).values())
        return [collections.namedtuple, (kind.__name__, list(fields)), defaults]  # noqa: PYI024
    if members and isinstance(members, types.MappingProxyType):
        return [kind.__bases__[-1], (kind.__name__, {name: one.value for name, one in members.items()}), ()]
    return None


def is_call(one: Any) -> bool:
    """Whether an argument can be made there by a call, because nothing here depends on its later state."""
    if isinstance(one, types.MethodType):
        return isinstance(one.__self__, type)
    if isinstance(one, types.BuiltinMethodType):
        return type(one.__self__) in IMMUTABLE
    return isinstance(one, MADE) or (by_name.is_installed(type(one).__module__) and callable(one))


def is_of_own_class(one: Any) -> bool:
    """Whether it is an object of a class of the user's own, which goes there by its source; its bases of libraries must
    be plain."""
    kind = type(one)
    others = [base for base in kind.__mro__ if by_name.is_installed(base.__module__)]
    return others != list(kind.__mro__) and all(base.__module__ in _PLAIN_BASES for base in others)


_COMPARING = type(functools.cmp_to_key(max))
# Classes whose objects cannot be pickled, but are made from one of their attributes.
_MADE_FROM = {("_struct", "Struct"): "format", ("numpy", "finfo"): "dtype"}


def reduction(one: Any) -> Any:
    """What Python's protocol ``__reduce_ex__`` says of an object: the call that makes it, and its state."""
    if isinstance(one, TypeVar):  # pickle takes one by its name only
        told = {"bound": one.__bound__, "covariant": one.__covariant__, "contravariant": one.__contravariant__}
        keywords: dict[str, Any] = {name: value for name, value in told.items() if value}
        return functools.partial(TypeVar, **keywords) if keywords else TypeVar, (one.__name__, *one.__constraints__)
    if isinstance(one, _COMPARING):  # it does not say which function it was made of
        return functools.cmp_to_key, tuple(found for found in gc.get_referents(one) if found is not _COMPARING)[:1]
    name = _MADE_FROM.get((type(one).__module__, type(one).__name__))
    if name is not None:
        return type(one), (getattr(one, name),)
    special = copyreg.dispatch_table.get(type(one))
    return special(one) if special is not None else one.__reduce_ex__(4)
