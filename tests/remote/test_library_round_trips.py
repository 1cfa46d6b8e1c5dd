"""What the library asks of the link: one round trip for a chain and its call, and for nearly everything else."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

from farside import FlameServer, Python, wait_until
from flakylink import FlakyLink
from trips import ops

import flame
from flame_kernel.remote import lookahead


def test_each_is_one_round_trip(flame_server: Callable[..., FlameServer]) -> None:
    with (
        FlakyLink(flame_server().location) as link,
        flame.connect(link.location, shell="mini") as pi,
    ):
        pi.execute(
            "import collections, math\nc = collections.Counter('abca')\nclass A: pass\na = A()\na.b = A()\na.b.c = 7"
        )
        c, a = pi.evaluate("c", ref=True), pi["a"]

        def trips(operation: Callable[[], Any]) -> int:
            before = len(link.messages)
            operation()
            wait_until(lambda: ops(link.messages)[-1] in ("poll", "submit", "do", "read"), "the end")
            return sum(b'"root":' in data for _, data in link.messages[before:])

        # No chain stands in an assert: pytest takes those apart, and stores each piece.
        def value() -> None:
            kind = type(pi.modules.math.pi)
            assert kind is float

        def stored() -> None:
            number = pi.modules.math.pi
            assert type(number) is float

        def set_item() -> None:
            pi["n"] = 1

        def delete() -> None:
            del pi["n"]

        def set_far() -> None:
            a.b.c = 8

        def three_items() -> None:
            found = [key for key in c]  # noqa: C416 -- list(c) asks for the length first
            assert sorted(found) == ["a", "b", "c"]

        once = {
            "value": value,
            "stored value": stored,
            "call": lambda: pi.modules.os.getpid(),
            "long chain and call": lambda: pi.modules.os.path.join("a", "b"),
            "chain with arguments": lambda: pi.modules.numpy.linalg.norm([3, 4]),
            "chain and item": lambda: pi.modules.os.environ["HOME"],
            "chain of an object": lambda: a.b.c,
            "module": lambda: pi.module("socket").gethostname(),
            "builtin": lambda: pi.builtin("max")(3, 4),
            "builtins": lambda: pi.builtins.max(3, 4),
            "execute": lambda: pi.execute("1"),
            "evaluate": lambda: pi.evaluate("1"),
            "set name": set_item,
            "get name": lambda: pi["n"],
            "is a name": lambda: "n" in pi,
            "delete name": delete,
            "set attribute of a chain": set_far,
            "iterate a container": three_items,
            "len": lambda: len(c),
            "operator": lambda: c + c,
            "item": lambda: c["a"],
            "compare": lambda: c == c,
            "dir": lambda: dir(c),
            "repr": lambda: repr(c),
            "function": lambda: pi.run(len, "abc"),
        }
        assert {name: trips(operation) for name, operation in once.items()} == dict.fromkeys(once, 1)
        assert trips(lambda: pi.builtins.open("/etc/passwd").read()) == 2  # the file is opened at once
        assert trips(lambda: list(pi.evaluate("(i for i in range(1000))"))) <= 5  # to make it, and 4 for its items
        assert trips(lambda: [pi.modules.os.getpid() for _ in range(10)]) == 10


def test_a_chain_over_a_long_link(flame_server: Callable[..., FlameServer]) -> None:
    delay = 0.05
    with (
        FlakyLink(flame_server().location, delay=delay) as link,
        flame.connect(link.location, shell="mini") as pi,
    ):
        pi.modules.os.path.join("a")
        seconds = []
        for _ in range(5):
            started = time.monotonic()
            pi.modules.os.path.join("a", "b")
            seconds.append(time.monotonic() - started)
        print(f"round trip {2 * delay * 1000:g} ms: a chain takes {sorted(seconds)[2] * 1000:.0f} ms")
        assert sorted(seconds)[0] < 2 * 2 * delay  # two round trips would be more


AHEAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("ahead", sys.argv[1])
ahead = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ahead)

class Spy:
    def __getattr__(self, name):
        seen.append(ahead.goes_on(sys._getframe(1)))
        return self
    def __getitem__(self, key):
        seen.append(ahead.goes_on(sys._getframe(1)))
        return self
    def __call__(self, *args, **kwargs):
        calls.append(ahead.next_attribute(sys._getframe(1)))
        return self
    def __setitem__(self, key, value): pass
    def __setattr__(self, name, value): pass

def use():
    x = s.a           # stored
    s.a.b.c           # two chained, one not
    s.a(1, k=2)       # called
    s.a["k"]          # the attribute is chained, the item is not
    s.a[key].b        # so is the item; the last attribute is not
    f(s.a)            # an argument
    s.a(1).ref()      # called, and the attribute of the result too
    s.a[0] = 1        # an item of it is set
    s.a.b = 1         # an attribute of it is set
    return getattr(s, "a")

s, seen, calls, key = Spy(), [], [], "k"
f = lambda x: None
for _ in range(40):   # once Python has specialised the code, too
    del seen[:], calls[:]
    use()
print("".join("ny"[one] for one in seen), calls)
"""


def test_what_is_read_ahead_on_every_python(each_python: Python) -> None:
    if each_python.version < (3, 10):
        return  # this side needs 3.10
    done = subprocess.run(
        [each_python.path, "-c", AHEAD, lookahead.__file__], capture_output=True, text=True, timeout=30
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "nyynyynyynnyyyyn ['', 'ref', '']"
