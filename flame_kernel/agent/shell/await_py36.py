"""Top-level await on Python 3.6 and 3.7, whose compilers have no flag for it.

The cell becomes the body of an ``async def``.  Its names are declared global, so that it assigns the same names as the
cell.  Python 3.7 parses ``await`` anywhere and rejects it later, so its syntax tree can be wrapped unchanged.  On 3.6
``await`` is an ordinary name outside of ``async def``, so each logical line is indented by a tab; multi-line strings
keep their text.
"""

import ast
import io
import re
import sys
import tokenize
import types

_WORD = re.compile(r"\b(await|async)\b")
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def may_await(source):
    """Whether the text has a word that could be an await."""
    return _WORD.search(source) is not None


class Function:
    """The single Step of such a cell (see compiler.Step)."""

    awaits = True

    def __init__(self, code, shows):
        self.code = code
        self.shows = shows

    def start(self, namespace):
        return types.FunctionType(self.code, namespace)()


def compile_awaiting(source, filename, flags, show):
    """The cell as a Function; None if it cannot be parsed this way either. Raises SyntaxError for code that no version
    runs at top level (``return``)."""
    try:
        body = _body(source, filename, flags)
    except SyntaxError:
        return None
    names = _Names()
    body = [names.visit(node) for node in body]
    shows = bool(show and body and isinstance(body[-1], ast.Expr))
    if shows:
        body[-1] = ast.copy_location(ast.Return(body[-1].value), body[-1])
    if names.bound:
        body.insert(0, ast.copy_location(ast.Global(sorted(names.bound)), body[0]))
    empty = ast.arguments(args=[], vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=[])
    function = ast.AsyncFunctionDef(name="<module>", args=empty, body=body, decorator_list=[], returns=None)
    function.lineno, function.col_offset = 1, 0
    tree = ast.fix_missing_locations(ast.Module([function]))
    module = compile(tree, filename, "exec", flags, True)
    for constant in module.co_consts:
        if isinstance(constant, types.CodeType):
            return Function(constant, shows)
    return None


def _body(source, filename, flags):
    """The statements of the cell, as syntax trees."""
    if sys.version_info >= (3, 7):
        return compile(source, filename, "exec", flags | ast.PyCF_ONLY_AST, True).body
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    try:
        starts = _logical_lines("\n".join(lines))
    except (tokenize.TokenError, IndentationError):
        raise SyntaxError("invalid syntax")
    shifted = "\n".join("\t" + line if n in starts else line for n, line in enumerate(lines, 1))
    tree = compile("async def cell():\n" + shifted, filename, "exec", flags | ast.PyCF_ONLY_AST, True)
    body = tree.body[0].body
    for node in body:
        ast.increment_lineno(node, -1)
    return body


def _logical_lines(source):
    """The numbers of the lines where a statement or comment may begin: those not inside a string or bracket."""
    starts, fresh = set(), True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if fresh and token.type not in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            starts.add(token.start[0])
        if token.type not in (tokenize.INDENT, tokenize.DEDENT):
            fresh = token.type == tokenize.NEWLINE or (fresh and token.type in (tokenize.NL, tokenize.COMMENT))
    return starts


class _Names(ast.NodeTransformer):
    """Collects the names that the cell assigns, and rewrites statements that cannot assign a name declared global."""

    def __init__(self):
        self.bound = set()

    def visit(self, node):
        if isinstance(node, _SCOPES):
            if not isinstance(node, ast.Lambda):
                self.bound.add(node.name)
            return node  # names assigned inside it are its own
        if isinstance(node, _COMPREHENSIONS):
            return node
        return super().visit(node)

    def visit_Name(self, node):
        if not isinstance(node.ctx, ast.Load):
            self.bound.add(node.id)
        return node

    def visit_alias(self, node):
        self.bound.add(node.asname or node.name.partition(".")[0])
        return node

    def visit_ImportFrom(self, node):
        if node.module == "__future__" or any(alias.name == "*" for alias in node.names):
            raise SyntaxError("Python %d.%d cannot do this import in a cell that awaits" % sys.version_info[:2])
        return self.generic_visit(node)

    def visit_ExceptHandler(self, node):
        if node.name:
            self.bound.add(node.name)
        return self.generic_visit(node)

    def visit_Global(self, node):
        return ast.copy_location(ast.Pass(), node)

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_Return(self, node):
        raise SyntaxError("'return' outside function")

    def visit_Yield(self, node):
        raise SyntaxError("'yield' outside function")

    visit_YieldFrom = visit_Yield
