"""Makes functions of source that the client sends, with the names, the defaults and the closure that they had there.

What is sent of one (see the client's ``functions``)::

    bundle    {"entry": number, "functions": [function, …], "spaces": [{name: thing}, …]}
    function  {"name", "source", "file", "line", "free": [name, …], "cells": [thing, …], "space": number,
               "defaults": [thing, …] or None, "kwdefaults": {name: thing} or None}
    thing     ["value", value]   ["module", name]   ["name", module, qualified name]   ["function", number]

Functions of one module share a *space*: their global names. An annotation is not evaluated: it may name anything.
"""

import ast
import builtins
import importlib
import types

from ..wire import values

_FACTORY = "def make(%s):\n    return None"
_ANNOTATED = (ast.FunctionDef, ast.AsyncFunctionDef)


def build(bundle, remember):
    """The function of a bundle. ``remember(file, source)`` gives a name by which tracebacks find its lines."""
    return _Builder(bundle, remember).entry()


class _Builder:
    def __init__(self, bundle, remember):
        self._bundle = bundle
        self._remember = remember
        self._made = {}
        self._under_way = set()
        self._spaces = [{"__builtins__": builtins, "__name__": "flame_function"} for _ in bundle["spaces"]]

    def entry(self):
        function = self._function(self._bundle["entry"])
        filled = -1
        while filled != len(self._made):  # a name may stand for a function that has names of its own
            filled = len(self._made)
            for space, names in zip(self._spaces, self._bundle["spaces"]):
                for name, thing in names.items():
                    if name not in space:
                        space[name] = self._thing(thing)
        return function

    def _thing(self, thing):
        kind = thing[0]
        if kind == "value":
            return thing[1]
        if kind == "function":
            return self._function(thing[1])
        found = importlib.import_module(thing[1])
        if kind == "name":
            for part in thing[2].split("."):
                found = getattr(found, part)
        return found

    def _function(self, number):
        if number in self._made:
            return self._made[number]
        if number in self._under_way:
            raise values.BadValue("functions that close over each other")
        self._under_way.add(number)
        plan = self._bundle["functions"][number]
        cells = [self._thing(thing) if thing != ["function", number] else None for thing in plan["cells"]]
        function = self._compile(plan, cells)
        if plan["defaults"] is not None:
            function.__defaults__ = tuple(self._thing(thing) for thing in plan["defaults"])
        if plan["kwdefaults"] is not None:
            function.__kwdefaults__ = {name: self._thing(thing) for name, thing in plan["kwdefaults"].items()}
        self._made[number] = function
        self._under_way.discard(number)
        return function

    def _compile(self, plan, cells):
        """Compile the function inside another one, whose arguments are its free names."""
        source, name = plan["source"], plan["name"]
        try:
            (node,) = _parse(source)
        except SyntaxError as e:
            raise values.BadValue("this Python does not know the syntax of %s: %s, line %s" % (name, e.msg, e.lineno))
        is_lambda = isinstance(node, ast.Expr)
        function = node.value if is_lambda else node
        _undress(function)
        given = [free for free in plan["free"] if is_lambda or free != name]
        factory = ast.parse(_FACTORY % ", ".join(given)).body[0]
        if is_lambda:
            factory.body[0].value = function
        else:
            factory.body[0].value = ast.Name(name, ast.Load())
            factory.body.insert(0, function)
        module = ast.parse("")
        module.body = [ast.fix_missing_locations(factory)]
        ast.increment_lineno(function, plan["line"] - 1)
        file = self._remember(plan["file"], "\n" * (plan["line"] - 1) + source)
        space = self._spaces[plan["space"]]
        made = {}
        exec(compile(module, file, "exec", dont_inherit=True), space, made)
        arguments = [cell for free, cell in zip(plan["free"], cells) if free in given]
        function = made["make"](*arguments)
        if not isinstance(function, types.FunctionType):
            raise values.BadValue("%s is not a function there" % name)
        return function


def _parse(source):
    """The statements of a source that may be indented; strings of several lines keep their text."""
    if source[:1] in " \t":
        tree = ast.parse("if 1:\n" + source)
        ast.increment_lineno(tree, -1)
        return tree.body[0].body
    return ast.parse(source).body


def _undress(function):
    """Remove from a definition what would be evaluated with it: decorators, defaults, annotations."""
    arguments = function.args
    arguments.defaults = [_none() for _ in arguments.defaults]
    arguments.kw_defaults = [default and _none() for default in arguments.kw_defaults]
    every = list(getattr(arguments, "posonlyargs", ())) + arguments.args + arguments.kwonlyargs
    for argument in every + [arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    if isinstance(function, _ANNOTATED):
        function.decorator_list = []
        function.returns = None


def _none():
    return ast.parse("None", mode="eval").body
