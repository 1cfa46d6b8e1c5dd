"""What runs on a server whose Python is too old for the agent; the text is for Python 2.7 and 3."""

from __future__ import annotations

import hashlib

# How many consoles and clients keep their variables there; those that have not been used for longest go first.
SPACES = 32

# During a call, sys.stdin, sys.stdout, sys.stderr and sys.displayhook of the server are replaced; one call at a time.
_SOURCE = """
import ast, base64, codeop, json, linecache, os, re, sys, threading, traceback, types
_lock = threading.Lock()
_spaces, _order = {}, []
_text = type(u"")
_old = sys.version_info[0] == 2
_numbers = (int, float, long) if _old else (int, float)

class _Stream(object):
    encoding, errors, softspace = "utf-8", "replace", 0
    def __init__(self, name, parts):
        self.name, self.parts = name, parts
    def write(self, text):
        text = text if isinstance(text, _text) else text.decode("utf-8", "replace")
        if self.parts and self.parts[-1][0] == self.name:
            self.parts[-1][1].append(text)
        else:
            self.parts.append((self.name, [text]))
    def writelines(self, lines):
        for line in lines:
            self.write(line)
    def flush(self):
        pass
    def isatty(self):
        return False

class _NoInput(object):
    encoding = "utf-8"
    def readline(self, *_):
        raise EOFError("a Python this old cannot ask you: there is no session")
    read = readline
    def isatty(self):
        return False

class _Cannot(Exception):
    pass

def _space(name, fresh=False):
    if name is None:
        return {"__name__": "__main__", "__builtins__": __builtins__}
    if fresh and name not in _spaces:
        _spaces[name] = {"__name__": "__main__", "__builtins__": __builtins__, "__doc__": None}
    if name not in _spaces:
        raise LookupError("the variables are no longer there; connect again")
    if name in _order:
        _order.remove(name)
    _order.append(name)
    while len(_order) > SPACES:
        _spaces.pop(_order.pop(0), None)
    return _spaces[name]

def _shown(work):
    parts, found = [], {"code": 0}
    with _lock:
        before = sys.stdin, sys.stdout, sys.stderr, sys.displayhook
        sys.stdin, sys.stdout, sys.stderr = _NoInput(), _Stream("stdout", parts), _Stream("stderr", parts)
        try:
            try:
                found.update(work() or {})
            except SystemExit as e:
                if not (e.code is None or isinstance(e.code, int)):
                    sys.stderr.write("%s\\n" % (e.code,))
                found["code"] = e.code if isinstance(e.code, int) else int(e.code is not None)
            except _Cannot as e:
                found["cannot"] = str(e)
            except BaseException:  # whatever the code of the user raises is its answer
                found["code"] = 1
                found["raised"] = _raised()
        finally:
            sys.stdin, sys.stdout, sys.stderr, sys.displayhook = before
    found["parts"] = [[name, u"".join(texts)] for name, texts in parts]
    return found

def _raised():
    kind, value, where = sys.exc_info()
    while where is not None and where.tb_frame.f_globals is globals():
        where = where.tb_next
    lines = traceback.format_exception(kind, value, where)
    try:
        text = value if isinstance(value, _text) else str(value)
    except Exception:  # its own text is broken, or not ASCII
        text = repr(value)
    return [_decoded(kind.__name__), _decoded(text), u"".join(_decoded(line) for line in lines)]

def _decoded(text):
    return text if isinstance(text, _text) else text.decode("utf-8", "replace")

def _lines(source):
    # Not splitlines, which also splits at form feeds.
    return [line + "\\n" for line in source.split("\\n")]

def _compiled(source, mode):
    # A text has no encoding to be named, which Python 2 says.
    source = re.sub(r"(?m)\\A((?:[ \\t]*#.*\\n)?[ \\t]*#.*?)coding[:=]", r"\\1coded ", source)
    linecache.cache["<flame>"] = (len(source), None, _lines(source), "<flame>")
    if mode == "eval":
        return [(compile(source, "<flame>", "eval", 0, True), True)]
    tree = compile(source, "<flame>", "exec", ast.PyCF_ONLY_AST, True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    # The flags of an import from __future__ at the head count for the last line too.
    whole = compile(source, "<flame>", "exec", 0, True)
    flags = whole.co_flags & sum(getattr(__import__("__future__"), name).compiler_flag
                                 for name in __import__("__future__").all_feature_names)
    codes = [(compile(tree, "<flame>", "exec", flags, True), False)] if tree.body else []
    if last is not None:
        codes.append((compile(ast.Expression(last.value), "<flame>", "eval", flags, True), True))
    return codes

def _run(source, mode, space, fresh):
    def work():
        scope = _space(space, fresh)
        for code, is_value in _compiled(source, mode):
            found = eval(code, scope)
            if is_value and (mode == "eval" or (found is not None and not source.rstrip().endswith(u";"))):
                sys.stdout.write(repr(found) + "\\n")
                scope["_"] = found
    return _shown(work)

def _line(source, space, fresh):
    def work():
        scope = _space(space, fresh)
        def hook(value):
            if value is not None:
                sys.stdout.write(repr(value) + "\\n")
                scope["_"] = value
        sys.displayhook = hook
        linecache.cache["<console>"] = (len(source), None, _lines(source), "<console>")
        code = codeop.compile_command(source, "<console>", "single")
        if code is None:
            return {"more": True}
        eval(code, scope)
    return _shown(work)

def _evaluate(source, space, fresh):
    return _shown(lambda: {"value": _plain(eval(_compiled(source, "eval")[0][0], _space(space, fresh)))})

def _named(module, path):
    if module is None:
        found = __import__("__builtin__" if _old else "builtins")
    else:
        __import__(str(module))
        found = sys.modules[str(module)]
    for name in path:
        found = getattr(found, str(name))
    return found

def _look(module, path):
    def work():
        found = _named(module, path)
        if callable(found) or isinstance(found, types.ModuleType):
            return {"stays": _decoded(repr(found))[:200]}
        return {"value": _plain(found)}
    return _shown(work)

def _call(module, path, args, named):
    def work():
        given = dict((str(name), _given(value)) for name, value in named)
        return {"value": _plain(_named(module, path)(*[_given(one) for one in args], **given))}
    return _shown(work)

def _plain(value, depth=0):
    kind = type(value)
    if value is None or kind is bool or kind in _numbers:
        return value
    if kind is _text:
        return value
    if kind is bytes and _old:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            pass
    if kind in (bytes, bytearray):
        return ["bytes", base64.b64encode(bytes(value)).decode("ascii")]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if depth > 50 or kind not in (list, tuple, set, frozenset, dict):
        if not (isinstance(value, tuple) or hasattr(value, "n_sequence_fields")) or depth > 50:
            raise _Cannot(kind.__name__)
        kind = tuple  # of sys.version_info, os.stat() and named tuples the names stay there
    if kind is dict:
        return ["dict", [[_plain(key, depth + 1), _plain(one, depth + 1)] for key, one in value.items()]]
    return [kind.__name__, [_plain(one, depth + 1) for one in value]]

def _given(value):
    if _old and isinstance(value, _text):
        try:
            return str(value)
        except UnicodeEncodeError:
            return value
    if not isinstance(value, list):
        return value
    kind, rest = value[0], value[1]
    if kind == "bytes":
        return base64.b64decode(rest)
    if kind == "complex":
        return complex(*value[1:])
    if kind == "dict":
        return dict((_given(key), _given(one)) for key, one in rest)
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](_given(one) for one in rest)

def _leave(space):
    with _lock:
        _spaces.pop(space, None)
        if space in _order:
            _order.remove(space)
    return {}

def _read(path, at, size):
    with open(os.path.expanduser(path), "rb") as f:
        f.seek(at)
        return {"data": base64.b64encode(f.read(size)).decode("ascii")}

def _write(path, data, first, part, last):
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        raise IOError("it is a folder; name the file")
    with open(path + part, "wb" if first else "ab") as f:
        f.write(base64.b64decode(data))
    if last:
        if os.name == "nt" and os.path.exists(path):
            os.remove(path)
        os.rename(path + part, path)
    return {}

_ops = {"run": _run, "line": _line, "evaluate": _evaluate, "look": _look, "call": _call, "leave": _leave,
        "read": _read, "write": _write}

def answer(request):
    try:
        name, args = json.loads(request.decode("utf-8"))
        found = _ops[name](*args)
    except Exception:  # whatever fails is the answer
        found = {"error": "%s: %s" % (sys.exc_info()[0].__name__, sys.exc_info()[1])}
    return json.dumps(found).encode("ascii")
""".replace("SPACES", str(SPACES))

# The module there that answers; clients of another version have another.
NAME = "flame_plain_calls_" + hashlib.sha256(_SOURCE.encode()).hexdigest()[:8]
# What puts it there, if it is not; Flame's own sendmodule takes no name from a Python 3.
PUSH = f"""
import sys
if {NAME!r} not in sys.modules:
    made = type(sys)({NAME!r})
    exec({_SOURCE!r}, made.__dict__)
    sys.modules[{NAME!r}] = made
"""
