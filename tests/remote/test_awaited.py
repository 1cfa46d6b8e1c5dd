"""What is awaited there is awaited here too; and pi.modules as a container."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from farside import FlameServer

import flame
from flame_kernel.remote.remote import Remote

THERE = """
import asyncio
async def later(x):
    await asyncio.sleep(0)
    return x
async def numbers(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i
class Block:
    log = []
    def __init__(self, verdict=False):
        self.verdict = verdict
    async def __aenter__(self):
        await asyncio.sleep(0)
        self.log.append("in")
        return self
    async def __aexit__(self, kind, error, tb):
        await asyncio.sleep(0)
        self.log.append(kind and (kind.__name__, error.args))
        return self.verdict
    async def work(self, seconds=3600):
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            await asyncio.sleep(0.01)
            self.log.append("and ended")
            raise
        return seconds
    async def busy(self):
        import time
        while True:
            try:
                time.sleep(0.01)
            except KeyboardInterrupt:
                self.log.append("stopped")
                raise
async def later_task():
    global task
    task = asyncio.ensure_future(Block().work())
"""


@pytest.fixture
def pi(pi: Remote) -> Remote:
    """A connection to a stock server, with what THERE defines."""
    pi.execute(THERE)
    return pi


def test_coroutines_and_async_generators(pi: Remote) -> None:
    async def main() -> Any:
        later: Any = pi["later"]
        both = await asyncio.gather(later(1), later(2))
        return both, [one async for one in pi["numbers"](3)]

    assert asyncio.run(main()) == ([1, 2], [0, 1, 2])

    async def no_awaitable() -> None:
        await pi.evaluate("object()")

    with pytest.raises(TypeError, match="await"):
        asyncio.run(no_awaitable())


def test_an_async_with_block_is_entered_and_left_there(pi: Remote) -> None:
    async def main() -> None:
        async with pi.evaluate("Block()") as block:
            assert await block.work(0) == 0
        with pytest.raises(KeyError) as caught:
            async with pi.evaluate("Block()"):
                raise KeyError("mine")
        assert caught.value.args == ("mine",)
        async with pi.evaluate("Block(True)"):
            raise ValueError(5)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(held(), 0.2)

    async def held() -> None:
        async with pi.evaluate("Block()"):
            await asyncio.sleep(3600)

    asyncio.run(main())
    there = pi.evaluate("Block.log")
    assert there[1::2] == [None, ("KeyError", ("mine",)), ("ValueError", (5,)), ("CancelledError", ())]


@pytest.mark.parametrize("place", ["child", "process"])
def test_what_is_cancelled_here_is_cancelled_there(flame_server: Callable[..., FlameServer], place: str) -> None:
    """Before the await ends, its coroutine there has come to its own end."""
    with flame.connect(flame_server().location, place=place) as pi:
        pi.execute(THERE)

        async def waits(thing: Any) -> Any:
            return await thing

        async def main() -> None:
            for expression, ends in [
                ("Block().work()", ["cancelled", "and ended"]),
                ("task", ["cancelled", "and ended"]),
                ("Block().busy()", ["stopped"]),
            ]:
                pi.execute("await later_task()\nawait asyncio.sleep(0)\nBlock.log.clear()")
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(waits(pi.evaluate(expression)), 0.3)
                assert pi.evaluate("Block.log") == ends, expression
            pi.execute("await later_task()\nBlock.log.clear()")
            assert not isinstance(pi["task"], asyncio.Future)  # asyncio would take it for one of its own
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(pi["task"], pi.evaluate("Block().work(0)")), 0.3)
            pi.execute("Block.log.clear()")
            two = [asyncio.ensure_future(waits(pi.evaluate("Block().work()"))) for _ in range(2)]
            await asyncio.sleep(0.3)
            two[1].cancel()  # the other one goes on
            await asyncio.wait(two, return_when=asyncio.FIRST_COMPLETED)
            assert pi.evaluate("Block.log") == ["cancelled", "and ended"]
            assert not two[0].done()
            two[0].cancel()

        asyncio.run(main())
        assert pi.evaluate("6 * 7") == 42


def test_what_is_awaited_at_the_same_time_may_wait_for_each_other(pi: Remote) -> None:
    """So all of it is on one loop there; and there is no limit on how many wait here."""

    async def main() -> Any:
        pi.execute("queue = asyncio.Queue()\nevent = asyncio.Event()")
        queue = pi["queue"]
        taken = await asyncio.wait_for(asyncio.gather(queue.get(), queue.put(3)), 60)
        waiting = asyncio.gather(*(pi["event"].wait() for _ in range(40)))
        await asyncio.sleep(0)
        pi.execute(
            "async def all_wait():\n    while len(event._waiters) < 40: await asyncio.sleep(0.01)\n    event.set()"
        )
        await pi["all_wait"]()
        return taken, await asyncio.wait_for(waiting, 60)

    assert asyncio.run(main()) == ([3, None], [True] * 40)


def test_a_forgotten_coroutine_names_its_own_line(pi: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    forgotten = pi["later"](1)
    del forgotten
    assert pi.evaluate("1") == 1
    said = capsys.readouterr().err
    assert "flame_agent" not in said


def test_modules_are_asked_for_as_of_a_container(pi: Remote) -> None:
    assert "os" in pi.modules
    assert "os.path" in pi.modules
    for name in ("nope_zz", "os.nope_zz", "no name", 3, None):
        assert name not in pi.modules
    assert hasattr(pi.modules, "os")
    assert not hasattr(pi.modules, "nope_zz")
    assert getattr(pi.modules, "nope_zz", 5) == 5
    assert "json" in list(pi.modules)
    with pytest.raises(ModuleNotFoundError):
        _ = pi.modules.nope_zz
    with pytest.raises(ModuleNotFoundError):
        pi.modules.nope_zz.f()
