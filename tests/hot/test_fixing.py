"""Functions of a running program that get new code in place, and their old code back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from farside import FlameServer, LiveApp
from kernels import remote_flame

import flame
from flame_kernel.errors import FlameError
from flame_kernel.hot import fixing
from flame_kernel.remote.remote import Remote

APPS = Path(__file__).parents[1] / "apps"


@pytest.fixture
def pi(site: FlameServer | LiveApp) -> Iterator[Remote]:
    """A session in whose process the app's module is loaded, and no longer after it."""
    with flame.connect(site.location, shell="mini") as remote:
        remote.execute(f"import sys; sys.path.insert(0, {str(APPS)!r}); import fixed_app as app")
        yield remote
        remote.execute("sys.modules.pop('fixed_app'); del sys.path[0]")


RUN = """
def run(one):
    import asyncio
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(one)
    finally:
        loop.close()
async def listed(many):
    return [one async for one in many]
"""

# The function, its new text, an expression, and what that is before and after.
CASES = [
    (
        "plain",
        "def plain(x, y=7, *rest, key=2, added=3, **more):\n    return ('new', x, y, added)",
        "app.routes['plain'](1)",
    ),
    ("decorated", "@deco\ndef decorated(x):\n    return 'new'", "app.routes['decorated'](1)"),
    ("barely", "@bare_deco\ndef barely(x):\n    return 'new'", "app.barely(1)"),
    ("closure", "def inner(c):\n    return ('new', b, c)", "app.closure(3)"),
    ("Thing.who", "def who(self):\n    return 'new ' + super().who()", "app.routes['who']()"),
    ("Thing.no_super", "def no_super(self):\n    return 'new %d' % self.__secret", "app.thing.no_super()"),
    ("Thing.cm", "@classmethod\ndef cm(cls):\n    return ('new', cls.__name__)", "app.thing.cm()"),
    ("Thing.sm", "@staticmethod\ndef sm():\n    return 'new'", "app.Thing.sm()"),
    ("Thing.prop", "@property\ndef prop(self):\n    return 'new'", "app.thing.prop"),
    ("Thing.__private", "def __private(self):\n    return 'new'", "app.thing.reads()"),
    ("coroutine", "async def coroutine(x):\n    return 'new'", "run(app.coroutine(1))"),
    ("generator", "def generator(n):\n    yield 'new'", "list(app.generator(1))"),
    ("stream", "async def stream(n):\n    yield 'new'", "run(listed(app.stream(1)))"),
]


@pytest.mark.parametrize("site", ["oldest", "process"], indirect=True)
def test_functions_of_every_kind_get_new_code_and_the_old_one_back(pi: Remote) -> None:
    pi.execute(RUN)
    for name, text, call in CASES:
        before = pi.evaluate(call)
        with pi.hotfix(f"fixed_app.{name}", text):
            after = pi.evaluate(call)
            assert "new" in str(after), name
            assert "old" not in str(after), name
            assert fixing.source_of(pi.session, f"fixed_app.{name}") == text + "\n"
            pi.hotfix(f"fixed_app.{name}", text.replace("new", "new, newer")).undo()  # one more
        assert pi.evaluate(call) == before, name
    assert pi.evaluate("app.plain.__doc__") == "Text."
    assert "nothing is fixed there" in fixing.table(pi.session)
    log = pi.evaluate("app.LOG")
    assert len(log) == 4 * len(CASES)
    assert "hotfix #1 of fixed_app.plain applied: user " in log[0]
    assert "of fixed_app.plain undone: user " in log[3]


REFUSED = [
    ("nothing.at", "def at(): pass", "no module nothing is loaded there"),
    ("plan", "def plan(): pass", "fixed_app has no plan; there is plain"),
    ("Thing", "class Thing: pass", "is a class; name one of its methods, such as fixed_app.Thing.who"),
    ("shorter", "def shorter(): pass", "is a lambda"),
    ("LOG", "def LOG(): pass", "is a list, not a function"),
    ("logging.sys.getsizeof", "def getsizeof(): pass", "has no Python code to replace"),
    ("plain", "def other(x): pass", "write the function plain and nothing beside it"),
    ("plain", "def plain(x:", "cannot be compiled there"),
    ("plain", "def plain(x, *rest, key=2, **more): pass", "the signature must stay: y is missing"),
    ("plain", "def plain(x, y, *rest, key=2, **more): pass", "the signature must stay: y had a default"),
    ("plain", "def plain(y=1, x=2, *rest, key=2, **more): pass", "its parameters are in another order"),
    ("plain", "def plain(x, y=1, *rest, key=2, new, **more): pass", "the new parameter new needs a default"),
    ("plain", "def plain(x, y=1, *rest, y2=1, **more): pass", "the signature must stay: key is missing"),
    (
        "plain",
        "async def plain(x, y=1, *rest, key=2, **more): pass",
        "is a coroutine (async def) now, but was not before",
    ),
    (
        "plain",
        "def plain(x, y=1, *rest, key=2, **more): yield",
        "is a generator (it has yield) now, but was not before",
    ),
    ("noted", "def noted(x: str) -> str:\n    return x", "the annotation of x has changed"),
    ("decorated", "def decorated(x): pass", "the decorators of fixed_app.decorated stay as they are"),
    ("Thing.no_super", "def no_super(self): return super().who()", "write super(Thing, self)"),
    ("coroutine", "def coroutine(x): pass", "was a coroutine (async def), but is not any more"),
    ("plain", "def plain(x, y=1 // 0, *rest, key=2, **more): pass", "a default of a parameter cannot be made there"),
]


@pytest.mark.parametrize("site", ["process"], indirect=True)
def test_what_cannot_be_fixed_has_its_sentence_and_changes_nothing(pi: Remote) -> None:
    for name, text, sentence in REFUSED:
        full = name if name.startswith("nothing") else f"fixed_app.{name}"
        with pytest.raises(FlameError) as caught:
            pi.hotfix(full, text)
        assert sentence in str(caught.value), (name, text)
    assert pi.evaluate("app.plain(1)") == ("old", 1, 1, (), 2, {})
    assert pi.evaluate("app.LOG") == []
    unknown = pi.hotfix("fixed_app.noted", "def noted(x: int) -> str:\n    return nobody_knows(x)")
    assert unknown.notes == ("nobody_knows is not known in fixed_app",)
    unknown.undo()


@pytest.mark.parametrize("site", ["process"], indirect=True)
def test_fixes_lie_on_each_other_and_end_with_their_session(pi: Remote, site: LiveApp) -> None:
    text = "def plain(x, y=1, *rest, key=2, **more):\n    return %r"
    other = flame.connect(site.location, shell="mini")
    other.hotfix("fixed_app.plain", text % "first")
    second = pi.hotfix("fixed_app.plain", text % "second")
    assert "def plain" in fixing.source_of(pi.session, "fixed_app.plain")
    listed = fixing.table(pi.session)
    assert listed.count("fixed_app.plain") == 2
    assert other.session.session_id in listed
    other.close()  # the lower one goes: the upper one stays, and then puts back the app's own
    assert pi.evaluate("app.plain(1)") == "second"
    second.undo()
    second.undo()
    assert pi.evaluate("app.plain(1)[0]") == "old"
    assert fixing.undo(pi.session) == []
    with pytest.raises(FlameError, match=r"fixed_app\.plain has no hotfix"):
        fixing.undo(pi.session, "fixed_app.plain")
    with flame.connect(site.location, shell="mini") as third:
        third.hotfix("fixed_app.plain", text % "third")
        assert pi.evaluate("app.plain(1)") == "third"
    assert pi.evaluate("app.plain(1)[0]") == "old"
    log = pi.evaluate("app.LOG")
    assert "undone: user the end of the session" in log[-1]


@pytest.mark.parametrize("site", ["process"], indirect=True)
def test_calls_under_way_end_with_the_old_code_and_tracebacks_have_the_new_lines(pi: Remote) -> None:
    pi.execute("begun = app.generator(3); next(begun)")
    with pi.hotfix("fixed_app.generator", "def generator(n):\n    yield 1 // 0  # fixed"):
        assert pi.evaluate("list(begun)") == [("old", 1), ("old", 2)]
        pi.execute(
            "import traceback\ntry:\n    list(app.generator(1))\n"
            "except ZeroDivisionError:\n    told = traceback.format_exc()"
        )
        assert "1 // 0" in pi["told"]
        assert "<hotfix fixed_app.generator #" in pi["told"]


@pytest.mark.parametrize("place", ["child", "process"])
def test_where_logging_is_not_set_up_a_program_is_told_on_stderr_and_a_session_is_not(
    place: str, flame_server: Callable[..., FlameServer], live_app: Callable[..., LiveApp]
) -> None:
    server = flame_server(ipython=False) if place == "child" else live_app(ipython=False)
    with flame.connect(server.location, place=place, shell="mini") as pi:
        pi.execute(
            "import colorsys, logging; told = []; root = logging.root.handlers[:]; logging.root.handlers[:] = []"
        )
        pi.execute("last = logging.lastResort; logging.lastResort = logging.Handler(logging.WARNING)")
        pi.execute("logging.lastResort.emit = told.append")
        with pi.hotfix("colorsys.rgb_to_yiq", "def rgb_to_yiq(r, g, b):\n    return 'new'"):
            assert pi.evaluate("colorsys.rgb_to_yiq(1, 1, 1)") == "new"
        assert pi.evaluate("len(told)") == (0 if place == "child" else 2)
        pi.execute("logging.lastResort = last; logging.root.handlers[:] = root")


def test_the_kernel_writes_a_cell_to_be_edited(live_app: Callable[..., LiveApp]) -> None:
    app = live_app()
    with remote_flame(env={"FLAME_TARGET": app.location}) as kernel:
        kernel.execute(f"import sys; sys.path.insert(0, {str(APPS)!r}); import fixed_app")
        offered = kernel.execute("%flame hotfix fixed_app.Thing.sm")
        assert offered.reply is not None
        (payload,) = offered.reply["payload"]
        assert payload["source"] == "set_next_input"
        cell = payload["text"]
        assert cell.startswith("%%flame hotfix fixed_app.Thing.sm\n@staticmethod\ndef sm():\n")
        done = kernel.execute(cell.replace('"old"', '"new"'))
        assert "fixed_app.Thing.sm runs the new code from its next call on" in done.stdout
        assert kernel.execute("fixed_app.Thing.sm()").result == "'new'"
        assert "fixed_app.Thing.sm" in kernel.execute("%flame hotfix").stdout
        assert "has its old code" in kernel.execute("%flame hotfix --undo").stdout
        assert kernel.execute("fixed_app.Thing.sm()").result == "'old'"
        wrong = kernel.execute("%%flame hotfix fixed_app.Thing.sm\n@staticmethod\ndef sm(x):\n    pass")
        assert "the new parameter x needs a default" in str(wrong.error)
        kernel.execute("sys.modules.pop('fixed_app'); del sys.path[0]")
