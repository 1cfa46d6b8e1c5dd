"""Code that puts something of its own in the place of ``sys.stdout`` and its like, and keeps what was there before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels import Kernel, Run
from places import Site, ok


@pytest.fixture
def kernel(site: Site) -> Iterator[Kernel]:
    yield site.kernel
    ok(
        site.kernel.execute(
            "import sys\nfor name in ('stdout', 'stderr', 'stdin', 'displayhook', 'excepthook'):\n"
            "    setattr(sys, name, OWN[name])"
        )
    )
    assert ok(site.kernel.execute("print('after'); 7")).stdout == "after\n"


def ename(run: Run) -> str | None:
    return None if run.error is None else run.error["ename"]


KEEP = """
import sys, io, contextlib
OWN = {name: getattr(sys, name) for name in ('stdout', 'stderr', 'stdin', 'displayhook', 'excepthook')}
"""

TEE = """
class Tee:
    def __init__(self, name):
        self.terminal, self.log = getattr(sys, name), []
    def write(self, text):
        self.terminal.write(text)
        self.log.append(text)
    def flush(self):
        self.terminal.flush()
"""


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_tee(kernel: Kernel, name: str) -> None:
    ok(kernel.execute(KEEP + TEE))
    say = f"print('%s', file=sys.{name})"
    run = ok(kernel.execute(f"sys.{name} = Tee('{name}'); {say % 'hello'}"))
    assert getattr(run, name) == "hello\n"
    run = ok(kernel.execute(say % "next cell"))
    assert getattr(run, name) == "next cell\n"
    # A second one on top, and what was written reaches both.
    run = ok(kernel.execute(f"sys.{name} = Tee('{name}'); {say % 'twice'}"))
    assert getattr(run, name) == "twice\n"
    kept = f"(''.join(sys.{name}.log), ''.join(sys.{name}.terminal.log))"
    assert ok(kernel.execute(kept)).result == "('twice\\n', 'hello\\nnext cell\\ntwice\\n')"
    # Errors and values are shown all the same.
    assert ename(kernel.execute("1 / 0")) == "ZeroDivisionError"


def test_print_without_a_file_goes_through_a_tee(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP + TEE))
    assert ok(kernel.execute("sys.stdout = Tee('stdout'); print('a'); print('b', end='')")).stdout == "a\nb"
    assert ok(kernel.execute("''.join(sys.stdout.log)")).result == "'a\\nb'"


def test_text_for_the_saved_stream_passes_by_what_replaces_it(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    code = """
old, old_err = sys.stdout, sys.stderr
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
    print('for the cell', file=old)
    print('trouble', file=old_err)
    print('kept'); print('kept too', file=sys.stderr)
    old.writelines(['li', 'nes\\n']); old.buffer.write(b'bytes\\n'); old.flush()
(out.getvalue(), err.getvalue())
"""
    run = ok(kernel.execute(code))
    assert run.stdout == "for the cell\nlines\nbytes\n"
    assert run.stderr == "trouble\n"
    assert run.result == "('kept\\n', 'kept too\\n')"


def test_a_redirection_inside_another(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    code = """
with contextlib.redirect_stdout(io.StringIO()) as outer:
    print('one')
    with contextlib.redirect_stdout(io.StringIO()) as inner:
        print('two')
    with contextlib.redirect_stdout(OWN['stdout']):
        print('shown')
    print('three')
(outer.getvalue(), inner.getvalue())
"""
    run = ok(kernel.execute(code))
    assert run.stdout == "shown\n"
    assert run.result == "('one\\nthree\\n', 'two\\n')"


def test_logging_handlers_keep_their_stream(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    code = """
import logging
logger = logging.getLogger('flame.test'); logger.propagate = False
handler = logging.StreamHandler(); logger.addHandler(handler)
with contextlib.redirect_stderr(io.StringIO()) as hidden:
    logger.warning('seen')
"""
    assert ok(kernel.execute(code)).stderr == "seen\n"
    # The usual bridge: what is printed becomes records, which are printed.
    code = """
class ToLog:
    def write(self, text):
        if text.strip(): logger.warning('record: ' + text.strip())
    def flush(self): pass
sys.stderr = sys.stdout = ToLog()
print('said')
"""
    assert ok(kernel.execute(code)).stderr == "record: said\n"
    assert ok(kernel.execute("print('again'); logger.removeHandler(handler)")).stderr == "record: again\n"


def test_doctest_shows_its_report(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    code = """
def f():
    '''
    >>> print('x')
    y
    '''
import doctest
runner = doctest.DocTestRunner()
for test in doctest.DocTestFinder().find(f, 'f', globs={'f': f}): runner.run(test)
"""
    run = ok(kernel.execute(code))
    assert "Expected:\n    y\nGot:\n    x\n" in run.stdout


def test_unittest_with_buffer(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    code = """
import unittest
class T(unittest.TestCase):
    def test_a(self): print('inside')
    def test_b(self): print('of the failure'); self.fail('on purpose')
suite = unittest.defaultTestLoader.loadTestsFromTestCase(T)
unittest.TextTestRunner(buffer=True, verbosity=2).run(suite);
"""
    run = ok(kernel.execute(code))
    assert "test_a" in run.stderr
    assert "ok" in run.stderr
    assert "FAILED (failures=1)" in run.stderr
    assert "of the failure" in run.stderr + run.stdout
    assert "inside" not in run.stderr + run.stdout


def test_hooks_that_call_what_was_there(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    code = """
import threading
seen = []
def showing(value, below=sys.displayhook):
    seen.append(value); below(value)
def failing(*error, below=sys.excepthook):
    seen.append(error[0].__name__); below(*error)
if True:  # IPython puts its own hook back after each statement
    sys.displayhook, sys.excepthook = showing, failing
    sys.displayhook(5)
    try: 1 / 0
    except ZeroDivisionError: sys.excepthook(*sys.exc_info())
"""
    run = ok(kernel.execute(code))
    assert run.result == "5"
    assert "ZeroDivisionError" in run.stderr + run.traceback
    assert ok(kernel.execute("print(seen)")).stdout == "[5, 'ZeroDivisionError']\n"


def test_what_is_deleted_is_the_sessions_own_again(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    ok(kernel.execute("sys.stdout = io.StringIO(); del sys.stdout, sys.displayhook, sys.stderr"))
    run = ok(kernel.execute("print('line'); 6 * 7"))
    assert (run.stdout, run.result) == ("line\n", "42")


def test_input_through_a_replaced_stdin(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    code = """
class Upper:
    def __init__(self): self.below = sys.stdin
    def readline(self, *size): return self.below.readline().upper()
sys.stdin = Upper()
sys.stdin.readline()
"""
    assert ok(kernel.execute(code, answers=("line",))).result == "'LINE\\n'"
    assert ok(kernel.execute("sys.stdin = io.StringIO('mine\\n'); input()")).result == "'mine'"


def test_streams_that_are_none(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    run = ok(kernel.execute("sys.stdout = sys.stderr = sys.stdin = None\nprint('nowhere')\n3"))
    assert run.result == "3"
    assert run.stdout == ""
    assert ename(kernel.execute("1 / 0")) == "ZeroDivisionError"


def test_a_stream_that_is_broken(kernel: Kernel) -> None:
    ok(kernel.execute(KEEP))
    ok(
        kernel.execute(
            "class Broken:\n    def write(self, text): raise OSError('broken')\nsys.stdout = sys.stderr = Broken()"
        )
    )
    assert ename(kernel.execute("print('x')")) == "OSError"
    assert ok(kernel.execute("6 * 7")).result == "42"


def test_pytest_captures_and_shows(kernel: Kernel, site: Site) -> None:
    if not site.has_ipython:
        pytest.skip("the bare interpreter has no pytest")
    ok(kernel.execute(KEEP))
    code = """
import pytest, tempfile, os
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, 'test_it.py'), 'w') as f:
        f.write("def test_good(): print('hidden')\\ndef test_bad(capsys):\\n    print('seen by capsys')\\n"
                "    assert capsys.readouterr().out == 'seen by capsys\\\\n'\\n    print('told'); assert 0\\n")
    options = ['-q', '--color=no', '--import-mode=importlib', '-p', 'no:cacheprovider', '-p', 'no:xdist']
    code = pytest.main([*options, '--rootdir', folder, folder, %r])
int(code)
"""
    for capture in ("--capture=sys", "-s"):
        run = ok(kernel.execute(code % capture))
        assert run.result == "1"
        assert "1 failed, 1 passed" in run.stdout
        assert "told" in run.stdout
        assert ("hidden" in run.stdout) == (capture == "-s")


def test_ipythons_tee(kernel: Kernel, site: Site) -> None:
    if not site.has_ipython:
        pytest.skip("no IPython there")
    ok(kernel.execute(KEEP))
    code = "import os, tempfile\nfrom IPython.utils.io import Tee as ITee\npath = tempfile.mktemp()\n"
    run = ok(kernel.execute(code + "t = ITee(path); print('x'); t.close(); print('y')\nopen(path).read()"))
    assert run.stdout == "x\ny\n"
    assert run.result == "'x\\n'"
    ok(kernel.execute("os.unlink(path)"))


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_method_of_the_stream_that_is_replaced(kernel: Kernel, name: str) -> None:
    """As experiment trackers do, and mocks."""
    ok(kernel.execute(KEEP))
    say = f"print('hello', file=sys.{name}, flush=True)" if name == "stderr" else "print('hello', flush=True)"
    code = f"""
seen, write, flush = [], sys.{name}.write, sys.{name}.flush
def mine(text):
    seen.append(text)
    return write(text.upper())
sys.{name}.write = mine
sys.{name}.flush = lambda: seen.append('flush')
{say}
"""
    assert getattr(ok(kernel.execute(code)), name) == "HELLO\n"
    assert getattr(ok(kernel.execute(f"sys.{name}.write('next cell')")), name) == "NEXT CELL"
    run = ok(
        kernel.execute(f"sys.{name}.write, sys.{name}.flush = write, flush\n{say}\n''.join(seen).split('flush')[:2]")
    )
    assert (getattr(run, name), run.result) == ("hello\n", "['hello\\n', 'next cell']")
    code = f"from unittest import mock\nwith mock.patch('sys.{name}.write') as m:\n    {say}\n{say}\nm.called"
    run = ok(kernel.execute(code))
    assert (getattr(run, name), run.result) == ("hello\n", "True")
    assert ok(kernel.execute(f"sys.{name}.isatty = lambda: True; sys.{name}.isatty()")).result == "True"
    assert ok(kernel.execute(f"del sys.{name}.isatty; sys.{name}.isatty()")).result == "False"
