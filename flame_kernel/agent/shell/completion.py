"""Completion for servers without IPython; it runs on another thread, so it also works while a cell runs.

Names are looked up and attributes read with getattr, as in rlcompleter. Nothing is called but ``dir`` and what lists
the keys of a mapping. If an object raises, there is still a reply. jedi is used if it can be imported.
"""

import builtins
import importlib.util
import inspect
import keyword
import os
import pkgutil
import re
import sys
import time
import tokenize
from collections.abc import Mapping

from . import jedi_cache
from .inspection import MAX_SCAN, MISSING, kind, resolve, tokens

MAX_MATCHES = 3000
MAX_MODULES = 5000
MODULES_KEEP = 60.0  # seconds for which the list of modules is kept

_DOTTED = re.compile(r"((?:[^\W\d]\w*\s*\.\s*)*)([^\W\d]\w*)?$")
_STRING_OR_COMMENT = re.compile(r"#|(?<![\w])([rRbBfFuU]{0,2})(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')")
_SUBSCRIPT = re.compile(r"((?:[^\W\d]\w*\s*\.\s*)*[^\W\d]\w*)\s*\[\s*$")
_IMPORT = re.compile(r"^\s*import\s+(?:[\w.]+(?:\s+as\s+\w+)?\s*,\s*)*([\w.]*)$")
_FROM = re.compile(r"^\s*from\s+([\w.]*)$")
_FROM_IMPORT = re.compile(r"^\s*from\s+([\w.]+)\s+import\s+\(?\s*(?:\w+(?:\s+as\s+\w+)?\s*,\s*)*(\w*)$")
_MAGIC = re.compile(r"^\s*(%{1,2}\w*)$")


class Completer:
    """Completes names of one namespace. ``magics``: names of magics, with ``%``."""

    def __init__(self, namespace, magics=()):
        self._ns = namespace
        self._magics = magics
        self._jedi = None
        self._modules = (None, [])
        jedi_cache.use(self)

    def close(self):
        """Undo our changes to jedi. Idempotent; any thread."""
        jedi_cache.leave(self)

    def complete(self, code, cursor_pos=None):
        """The content of a complete_reply. Positions count characters (code points).

        https://jupyter-client.readthedocs.io/en/stable/messaging.html#completion
        """
        cursor = len(code) if cursor_pos is None else max(0, min(cursor_pos, len(code)))
        try:
            start, found = self._complete(code, cursor)
        except Exception:  # an object's error or ours: no reply would be worse for the waiting front end
            start, found = cursor, []
        seen, types = set(), []
        for text, what in found:
            if text not in seen and len(types) < MAX_MATCHES:
                seen.add(text)
                types.append({"start": start, "end": cursor, "text": text, "type": what, "signature": ""})
        return {
            "status": "ok",
            "matches": [t["text"] for t in types],
            "cursor_start": start if types else cursor,
            "cursor_end": cursor,
            "metadata": {"_jupyter_types_experimental": types},
        }

    def _complete(self, code, cursor):
        """``(start, [(text, type), …])``."""
        before = code[:cursor]
        line = before[before.rfind("\n") + 1 :]
        magic = _MAGIC.match(line)
        if magic is not None:
            word = magic.group(1)
            return cursor - len(word), [(n, "magic") for n in sorted(self._magics) if n.startswith(word)]
        inside = _string_at(before if len(before) <= MAX_SCAN else line)
        if inside is not None:
            return self._in_string(inside, code, cursor)
        subscript = _SUBSCRIPT.search(line)
        keys = [] if subscript is None else self._keys(subscript.group(1), None, "", code[cursor:])
        if keys:
            return cursor, keys
        found = self._by_jedi(code, cursor)
        if found is None:
            found = self._imported(line[line.rfind(";") + 1 :], cursor)
        return self._dotted(line, before, cursor) if found is None else found

    def _in_string(self, inside, code, cursor):
        """Inside a comment: nothing. Inside a string: keys of the mapping before it, or file names."""
        if inside == "comment":
            return cursor, []
        head, quote, typed = inside
        subscript = _SUBSCRIPT.search(head)
        if subscript is None:
            return _files(typed, cursor)
        return cursor - len(typed), self._keys(subscript.group(1), quote, typed, code[cursor:])

    def _imported(self, statement, cursor):
        """In an import statement: names of modules, or names in a module; None elsewhere."""
        match = _IMPORT.match(statement) or _FROM.match(statement)
        if match is not None:
            return self._module_names(match.group(1), cursor)
        match = _FROM_IMPORT.match(statement)
        if match is None:
            return None
        prefix = match.group(2)
        names = self._module_members(match.group(1))
        return cursor - len(prefix), [(n, k) for n, k in names if n.startswith(prefix)]

    def _dotted(self, line, before, cursor):
        """Attributes if there is a dot before the cursor, else names and the arguments of a call."""
        match = _DOTTED.search(line)
        chain, prefix = match.group(1), match.group(2) or ""
        if chain:
            return cursor - len(prefix), self._attributes(re.sub(r"\s|\.\s*$", "", chain), prefix)
        if line[: len(line) - len(prefix)].rstrip().endswith("."):
            return cursor, []  # the object would have to be computed first: f().x, 1.x
        return cursor - len(prefix), self._arguments(before, prefix) + self._names(prefix)

    def _by_jedi(self, code, cursor):
        """jedi's completions; None if it has none or is not installed."""
        if self._jedi is None:
            try:
                import jedi

                self._jedi = jedi.Interpreter
            except Exception:  # a half-installed jedi may raise anything
                self._jedi = False
        if not self._jedi:
            return None
        return jedi_cache.complete(self, lambda: self._ask_jedi(code, cursor))

    def _ask_jedi(self, code, cursor):
        try:
            before = code[:cursor]
            line, column = before.count("\n") + 1, cursor - (before.rfind("\n") + 1)
            script = self._jedi(code, [dict(self._ns)])
            made = script.complete(line=line, column=column)
            found, start = [], cursor
            for c in made[:MAX_MATCHES]:
                name = c.name_with_symbols
                start = cursor - (len(name) - len(c.complete or ""))
                if name.startswith("_") and start and code[start - 1] == "." and not code.startswith("_", start):
                    continue
                found.append((name, c.type))
            return (start, found) if found else None
        except BaseException:  # an object may raise anything when jedi asks it
            return None

    def _names(self, prefix):
        ns = dict(self._ns)
        found = []
        for name in sorted(set(ns) | set(dir(builtins)) | set(keyword.kwlist)):
            if not name.startswith(prefix) or (name.startswith("_") and not prefix):
                continue
            if name in ns:
                found.append((name, kind(ns[name])))
            elif keyword.iskeyword(name):
                found.append((name, "keyword"))
            else:
                found.append((name, kind(getattr(builtins, name, None))))
        return found

    def _attributes(self, dotted, prefix):
        obj = resolve(self._ns, dotted)
        if obj is MISSING:
            return []
        try:
            names = sorted(n for n in dir(obj) if isinstance(n, str) and n.startswith(prefix))
        except BaseException:  # a __dir__ of the user's may raise anything
            return []
        names = [n for n in names if prefix.startswith("_") or not n.startswith("_")]
        return [(name, _static_kind(obj, name)) for name in names[:MAX_MATCHES]]

    def _arguments(self, before, prefix):
        """``name=`` for the arguments of the call around the cursor."""
        call = enclosing_call(before if len(before) <= MAX_SCAN else before[before.rfind("\n") + 1 :])
        obj = resolve(self._ns, call) if call else MISSING
        if obj is MISSING or not callable(obj):
            return []
        try:
            parameters = inspect.signature(obj).parameters.values()
        except Exception:  # it has no signature, or the user's __signature__ raises
            return []
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return [(p.name + "=", "param") for p in parameters if p.kind in kinds and p.name.startswith(prefix)]

    def _keys(self, dotted, quote, typed, after):
        """Keys of a mapping, for ``d[`` (quote None) and ``d["typed``."""
        obj = resolve(self._ns, dotted)
        try:
            keys = _keys_of(obj)
        except BaseException:  # a keys() of the user's may raise anything
            return []
        found = []
        for key in keys[:MAX_MATCHES]:
            if quote is None:
                if type(key) in (str, bytes, int, float, bool, tuple):
                    found.append((repr(key) + ("" if after.startswith("]") else "]"), "dict key"))
            elif isinstance(key, str) and key.startswith(typed):
                text = key.replace("\\", "\\\\").replace("\n", "\\n").replace(quote, "\\" + quote)
                close = "" if after.startswith(quote) else quote
                found.append((text + close + ("]" if close and not after.startswith("]") else ""), "dict key"))
        return found

    # -- modules -----------------------------------------------------------------------------------------------------

    def _top_modules(self):
        made, names = self._modules
        if made is None or time.monotonic() - made > MODULES_KEEP:
            names = set(sys.builtin_module_names)
            try:
                for module in pkgutil.iter_modules():
                    names.add(module.name)
                    if len(names) >= MAX_MODULES:
                        break
            except Exception:  # an importer of the host that cannot list its modules; the others are enough
                pass
            self._modules = (time.monotonic(), sorted(names))
        return self._modules[1]

    def _module_names(self, dotted, cursor):
        package, _, prefix = dotted.rpartition(".")
        if package:
            names = [n for n, k in self._module_members(package) if k == "module"]
        else:
            names = self._top_modules()
        return cursor - len(prefix), [(n, "module") for n in names if n.startswith(prefix)]

    def _module_members(self, dotted):
        """Names in a module that is already imported, or submodules of one that is not; imports nothing."""
        module = sys.modules.get(dotted)
        found = {}
        path = None
        if module is not None:
            path = getattr(module, "__path__", None)
            for name in dir(module):
                if not name.startswith("_"):
                    found[name] = _static_kind(module, name)
        elif "." not in dotted:
            spec = importlib.util.find_spec(dotted)
            path = None if spec is None else spec.submodule_search_locations
        if path:
            for sub in pkgutil.iter_modules(list(path)):
                found[sub.name] = "module"
        return sorted(found.items())


def _static_kind(obj, name):
    """``kind`` of an attribute, or ``property``; the attribute is looked up without being computed."""
    try:
        value = inspect.getattr_static(obj, name)
    except BaseException:  # a metaclass of the user's may raise anything
        return "instance"
    if isinstance(value, property):
        return "property"
    if isinstance(value, (staticmethod, classmethod)):
        return "function"
    return kind(value)


def _keys_of(obj):
    if obj is MISSING:
        return []
    if isinstance(obj, dict):
        return list(dict.keys(obj))
    if callable(getattr(type(obj), "_ipython_key_completions_", None)):
        return list(obj._ipython_key_completions_())
    if isinstance(obj, Mapping) or type(obj).__module__.startswith("pandas."):
        return list(obj.keys())
    names = getattr(getattr(obj, "dtype", None), "names", None)  # a NumPy structured array
    return list(names) if isinstance(names, tuple) else []


def _string_at(text):
    """Where ``text`` ends: None (in code), "comment", or in a string: ``(text before, quote, typed so far)``."""
    at = 0
    while True:
        match = _STRING_OR_COMMENT.search(text, at)
        if match is None:
            return None
        if match.group() == "#":
            at = text.find("\n", match.end())
            if at < 0:
                return "comment"
            continue
        quote = match.group(2) or match.group(3)
        any_but = r"[^\\]" if len(quote) == 3 else r"[^\\\n]"
        body = re.compile(r"(?:%s|\\.)*?%s" % (any_but, quote), re.DOTALL).match(text, match.end())
        if body is not None:
            at = body.end()
            continue
        typed = text[match.end() :]
        if len(quote) == 1 and re.search(r"(?<!\\)\n", typed):
            at = match.end() + typed.index("\n")  # the string is never closed: what follows is code again
            continue
        if "f" in (match.group(1) or "").lower() and typed.rfind("{") > typed.rfind("}"):
            return None
        return text[: match.start()], quote[0], typed


def _files(typed, cursor):
    """File names, for a string that may be a path."""
    folder, prefix = os.path.split(typed)
    try:
        names = sorted(os.listdir(os.path.expanduser(folder) or "."))[:MAX_MATCHES]
    except (OSError, ValueError):
        return cursor, []
    found = []
    for name in names:
        if name.startswith(prefix) and (prefix or not name.startswith(".")):
            is_folder = os.path.isdir(os.path.join(os.path.expanduser(folder), name))
            found.append((name + os.sep if is_folder else name, "path"))
    return cursor - len(prefix), found


def enclosing_call(before):
    """The dotted name of the function in whose call the text ends; None outside of calls."""
    names, stack, name = [], [], None
    for token in tokens(before):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            dotted = names and names[-1] == "."
            name = (name + "." + token.string) if dotted and name else (None if dotted else token.string)
        elif token.string in ("(", "[", "{"):
            stack.append(name if token.string == "(" else None)
            name = None
        elif token.string in (")", "]", "}"):
            if stack:
                stack.pop()
            name = None
        elif token.string != ".":
            name = None
        names = [token.string] if token.type != tokenize.NL else names
    return stack[-1] if stack else None
