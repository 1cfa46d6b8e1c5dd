"""Waits: a Stop ends what a cell waits for, whenever it comes."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from flame_kernel.kernel.waits import Stopped, Waits


def never() -> Future[None]:
    return Future()


def done(value: int) -> Future[int]:
    future: Future[int] = Future()
    future.set_result(value)
    return future


def test_a_stop_between_two_waits_ends_the_next_one_and_no_other() -> None:
    """It may come when the front end has just seen the cell begin, and nothing waits yet."""
    waits = Waits()

    async def cell() -> int:
        with waits.cell():
            assert await waits.until(done(1)) == 1
            waits.stop()
            with pytest.raises(Stopped):
                await asyncio.wait_for(waits.until(never()), 10)
            return await waits.until(done(2))

    assert asyncio.run(cell()) == 2


def test_a_stop_before_the_cell_is_handed_on_keeps_it_here() -> None:
    waits, ran = Waits(), []

    async def cell() -> None:
        with waits.cell():
            waits.stop()
            with pytest.raises(Stopped):
                waits.begin(lambda: ran.append("never"))
            waits.begin(lambda: ran.append("once"))

    asyncio.run(cell())
    assert ran == ["once"]


def test_a_stop_is_for_the_cells_there_are() -> None:
    waits = Waits()
    waits.stop()

    async def cell(inner: Future[int]) -> int:
        with waits.cell():
            return await waits.until(inner)

    async def both() -> list[object]:
        stopped = [asyncio.create_task(cell(Future())) for _ in range(2)]
        await asyncio.sleep(0)
        waits.stop()
        outcomes = await asyncio.gather(*stopped, return_exceptions=True)
        return [*map(type, outcomes), await cell(done(3))]

    assert asyncio.run(both()) == [Stopped, Stopped, 3]
