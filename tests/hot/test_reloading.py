"""Modules that are edited while they are in use: who holds something of them has the new code."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from farside import wait_until

from flame_kernel.errors import RemoteError
from flame_kernel.remote.remote import Remote

Edit = Callable[[Path, str, str], None]

OLD = """
import functools

LIMIT = 1
GONE = 2

def plain(x, y=1):
    return ("old", x, y)

def deco(function):
    @functools.wraps(function)
    def wrapper(*args):
        return ["old deco", function(*args)]
    return wrapper

@deco
def decorated():
    return "old"

@functools.lru_cache(maxsize=None)
def cached():
    return "old"

def maker(n):
    def inner():
        return ("old", n)
    return inner

made = maker(7)

class Base:
    rate = 1
    def who(self):
        return "old base"
    def gone(self):
        return 1

class Child(Base):
    registry = {}
    def who(self):
        return "old child, " + super().who()
    @property
    def prop(self):
        return "old"
    @classmethod
    def cm(cls):
        return ("old", cls.__name__)
    @staticmethod
    def sm():
        return "old"
    class Inner:
        def m(self):
            return "old inner"

KINDS = {"child": Child}
default = Child()

class Point:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return type(other) is Point and self.x == other.x
"""

USER = """
import work
from work import plain, decorated, cached, made, Child, Base, Point, maker
child, point = Child(), Point(3)
bound, prop_class = child.who, Child
class Below(Child):
    def who(self):
        return "below, " + super().who()
below = Below()
inner = Child.Inner()
"""


@pytest.fixture
def work(pi: Remote, project: Path) -> Path:
    path = project / "work.py"
    path.write_text(OLD)
    pi.hot(project, reload=True)
    pi.execute(USER)
    return path


def test_functions_classes_and_instances_have_the_new_code(pi: Remote, work: Path) -> None:
    assert pi.evaluate("(plain(1), cached(), below.who())")[0] == ("old", 1, 1)
    new = OLD.replace("old", "new").replace("y=1", "y=5").replace("GONE = 2", "")
    gone = "    def gone(self):\n        return 1\n"
    assert gone in new
    work.write_text(new.replace(gone, "    def added(self):\n        return super().__str__()[:5]\n"))
    assert pi.evaluate("plain(1)") == ("new", 1, 5)
    assert pi.evaluate("decorated()") == ["new deco", "new"]
    assert pi.evaluate("(cached(), made(), maker(2)())") == ("new", ("new", 7), ("new", 2))
    assert pi.evaluate("(child.who(), bound(), below.who())") == (
        "new child, new base",
        "new child, new base",
        "below, new child, new base",
    )
    assert pi.evaluate("(child.prop, Child.cm(), Child.sm(), inner.m(), child.added())") == (
        *("new", ("new", "Child"), "new", "new inner", "<work"),
    )
    assert pi.evaluate("hasattr(work, 'GONE') or hasattr(child, 'gone')") is False
    # One class, whoever holds it: the module, its tables, what it has made, and the user.
    assert pi.evaluate(
        "work.Child is Child is work.KINDS['child'] and type(work.default) is Child and isinstance(below, work.Base)"
    )
    assert pi.evaluate("isinstance(point, work.Point) and point == work.Point(3)")


def test_it_can_be_edited_again_and_again(pi: Remote, work: Path) -> None:
    for n in range(3):
        work.write_text(OLD.replace("old", f"turn {n}"))
        assert pi.evaluate("(plain(1)[0], child.who(), decorated())") == (
            f"turn {n}",
            f"turn {n} child, turn {n} base",
            [f"turn {n} deco", f"turn {n}"],
        )


@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_a_mistake_leaves_the_old_code_and_says_where_it_is(pi: Remote, work: Path) -> None:
    told: list[str] = []
    pi.write = lambda name, text: told.append(text)
    work.write_text(OLD.replace("old", "new").replace("class Base:", "class Base"))
    assert pi.evaluate("plain(1)[0]") == "old"
    assert "work was edited but is not reloaded: " in "".join(told)
    assert f"(work.py, line {OLD[: OLD.index('class Base')].count(chr(10)) + 1})" in "".join(told)
    told.clear()
    assert pi.evaluate("plain(1)[0]") == "old"
    assert told == []  # once for each edit
    work.write_text(OLD.replace("old", "new") + "\nNEW = 1\nraise ValueError('not yet')\n")
    assert pi.evaluate("(plain(1)[0], work.LIMIT, child.who(), hasattr(work, 'NEW'))") == (
        *("old", 1, "old child, old base", False),
    )
    assert "ValueError: not yet (work.py, line " in "".join(told)
    work.write_text(OLD + "\nraise SystemExit(3)\n")
    assert pi.evaluate("plain(1)[0]") == "old"
    assert "SystemExit: 3 (work.py, line " in "".join(told)
    work.write_text(OLD.replace("old", "new"))
    assert pi.evaluate("(plain(1)[0], child.who())") == ("new", "new child, new base")


@pytest.mark.parametrize("site", ["child", "process"], indirect=True)
def test_a_stop_while_a_module_is_reloaded_leaves_that_to_the_next_cell(pi: Remote, work: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begins = f"if not os.path.exists({str(begun)!r}):\n    open({str(begun)!r}, 'w').close()\n"
    waits = f"{begins}    while True: time.sleep(0.01)\n"
    work.write_text(f"{OLD.replace('old', 'new')}\nimport os, time\n{waits}")

    def stop() -> None:
        wait_until(begun.exists, "the reload")
        pi.interrupt()

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(RemoteError) as caught:
        pi.execute("plain(1)")
    stopping.join()
    assert caught.value.ename == "KeyboardInterrupt"
    assert pi.evaluate("plain(1)[0]") == "new"


@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_what_cannot_be_changed_in_place_is_said(pi: Remote, work: Path) -> None:
    told: list[str] = []
    pi.write = lambda name, text: told.append(text)
    work.write_text(OLD.replace("    rate = 1", "    __slots__ = ('a',)").replace('"old", n)', '"old")'))
    assert pi.evaluate("made()") == ("old", 7)
    assert "work is reloaded, but what holds the old " in "".join(told)
    assert "Base" in "".join(told)


@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_a_package_and_its_parts_are_reloaded_where_they_were_edited(pi: Remote, project: Path, edit: Edit) -> None:
    pi.hot(project, reload=True)
    pi.execute("from shop import Cart; import shop; cart = Cart()")
    edit(project / "shop/prices.py", "return 3", "return 10")
    assert pi.evaluate("cart.total()") == 20
    edit(project / "shop/__init__.py", "import prices", "import prices\nVERSION = 2")
    assert pi.evaluate("(shop.VERSION, shop.Cart is Cart)") == (2, True)
