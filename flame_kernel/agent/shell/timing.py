"""%time and %timeit: measure how long code takes, and report it as IPython does."""

import ast
import contextlib
import math
import time
import timeit

_UNITS = ("s", "ms", "μs", "ns")


class BadOptions(ValueError):
    """%timeit does not have these options."""


def in_words(seconds, digits=3):
    """A time in words: ``3.2 ms``, or ``1min 5s``."""
    if seconds >= 60:
        parts = []
        for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
            n, seconds = divmod(seconds, size) if size > 1 else (seconds, 0)
            if n >= 1:
                parts.append("%d%s" % (n, name))
        return " ".join(parts)
    order = 0 if seconds <= 0 else min(-int(math.floor(math.log10(seconds)) // 3), 3)
    order = max(order, 0) if seconds > 0 else 3
    return "%.*g %s" % (digits, seconds * 1000.0**order, _UNITS[order])


def time_once(source, namespace, write):
    """Run ``source`` and write its times, also if it raises; returns the value of its last expression."""
    tree = compile(source, "<timed exec>", "exec", ast.PyCF_ONLY_AST, True)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = compile(ast.Expression(tree.body.pop().value), "<timed eval>", "eval", 0, True)
    first = compile(tree, "<timed exec>", "exec", 0, True)
    with timed(write):
        exec(first, namespace)
        return None if last is None else eval(last, namespace)


@contextlib.contextmanager
def timed(write):
    """Write how long the body of the ``with`` has taken."""
    user, system = _cpu()
    wall = time.perf_counter()
    try:
        yield
    finally:
        wall = time.perf_counter() - wall
        user, system = [after - before for after, before in zip(_cpu(), (user, system))]
        write("CPU times: user %s, sys: %s, total: %s\n" % (in_words(user), in_words(system), in_words(user + system)))
        write("Wall time: %s\n" % in_words(wall))


def awaiting(code):
    """``(number of lines before the code, the code)`` that ``%%time``, or ``%time`` in a cell of one line, is to time,
    if it may await: then only a shell can run it. None for any other cell."""
    before = len(code) - len(code.lstrip())
    first, _, rest = code[before:].partition("\n")
    lines = code.count("\n", 0, before)
    if first.rstrip() == "%%time":
        lines, inner = lines + 1, rest
    elif first.startswith("%time ") and not rest.strip():
        inner = first[len("%time ") :].lstrip()
    else:
        return None
    return (lines, inner) if "await" in inner or "async" in inner else None


def _cpu():
    try:
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime, usage.ru_stime
    except ImportError:
        return time.process_time(), 0.0


class TimeitResult:
    """What ``%timeit -o`` gives."""

    def __init__(self, loops, repeat, runs):
        self.loops = loops
        self.repeat = repeat
        self.all_runs = runs
        self.timings = [run / loops for run in runs]
        self.best, self.worst = min(self.timings), max(self.timings)
        self.average = math.fsum(self.timings) / len(self.timings)
        self.stdev = (math.fsum((t - self.average) ** 2 for t in self.timings) / len(self.timings)) ** 0.5

    def __str__(self):
        return "%s ± %s per loop (mean ± std. dev. of %d run%s, %s loop%s each)" % (
            in_words(self.average),
            in_words(self.stdev),
            self.repeat,
            "" if self.repeat == 1 else "s",
            format(self.loops, ","),
            "" if self.loops == 1 else "s",
        )

    def __repr__(self):
        return "<TimeitResult : %s>" % self


def time_loop(line, cell, namespace, write):
    """%timeit: time ``line``; if there is a ``cell``, time the cell, with ``line`` as its setup. Returns a TimeitResult
    with ``-o``, else None. Raises BadOptions, and what the code raises."""
    options, statement = _options(line)
    setup = "pass"
    if cell is not None:
        setup, statement = statement.strip() or "pass", cell
    elif not statement.strip():
        return None
    try:
        timer = timeit.Timer(statement.strip("\n"), setup, time.perf_counter, globals=namespace)
    except SyntaxError:
        compile(setup, "<timeit setup>", "exec", 0, True)
        compile(statement, "<timeit>", "exec", 0, True)  # reports errors in the user's text, not in timeit's template
        raise
    loops = options["n"]
    while not loops or loops < 0:
        loops = timer.autorange()[0]
    result = TimeitResult(loops, options["r"], timer.repeat(options["r"], loops))
    if not options["q"]:
        write("%s\n" % result)
    return result if options["o"] else None


def _options(line):
    """The options before the statement; the statement keeps its quotes and spaces."""
    options = {"n": 0, "r": 7, "q": False, "o": False}
    rest = line.lstrip()
    while rest[:1] == "-" and rest[1:2].isalpha():
        word, _, after = rest.partition(" ")
        name, value = word[1:2], word[2:]
        if name in ("n", "r"):
            if not value:
                value, _, after = after.lstrip().partition(" ")
            try:
                options[name] = max(1, int(value))
            except ValueError:
                raise BadOptions("%%timeit: -%s wants a number, not %r" % (name, value))
        elif word in ("-q", "-o", "-t", "-c", "-qo", "-oq"):
            for one in word[1:]:
                options[one] = True
        else:
            raise BadOptions("%%timeit: option %s not recognized; there are -n, -r, -q, -o" % word)
        rest = after.lstrip()
    return options, rest
