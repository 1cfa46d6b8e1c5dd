"""Functions of a program, of every kind that a hotfix meets. Runs on every far-side Python."""

import functools
import logging

LOG = []


class Kept(logging.Handler):
    def emit(self, record):
        LOG.append(record.getMessage())


logging.getLogger("remote_flame").addHandler(Kept())


def plain(x, y=1, *rest, key=2, **more):
    """Text."""
    return ("old", x, y, rest, key, more)


def noted(x: int) -> str:
    return "old"


def deco(function):
    @functools.wraps(function)
    def wrapper(*args):
        return ["deco", function(*args)]

    return wrapper


def bare_deco(function):
    def wrapper(*args):
        return ["bare", function(*args)]

    return wrapper


@deco
def decorated(x):
    return "old"


@bare_deco
def barely(x):
    return "old"


@functools.lru_cache(maxsize=None)
def cached(x):
    return "old"


def outer(a, b):
    def inner(c):
        return ("old", a, b, c)

    return inner


closure = outer(1, 2)


class Base:
    def who(self):
        return "base"


class Thing(Base):
    __secret = 5

    def who(self):
        return "old " + super().who()

    def no_super(self):
        return "old"

    @classmethod
    def cm(cls):
        return ("old", cls.__name__)

    @staticmethod
    def sm():
        return "old"

    @property
    def prop(self):
        return "old"

    def __private(self):
        return "old"

    def reads(self):
        return self.__private()


async def coroutine(x):
    return "old"


def generator(n):
    for i in range(n):
        yield ("old", i)


async def stream(n):
    yield "old"


shorter = lambda: "old"  # noqa: E731
thing = Thing()
routes = {"plain": plain, "who": thing.who, "decorated": decorated}
