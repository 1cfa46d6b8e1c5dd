"""Lets called code run event loops of its own on a lane's thread, where the lane's own loop is already running."""

import asyncio
import concurrent.futures
import threading

# Seconds that another thread's loop has to begin awaiting something; if it does not, it is blocked.
FREE_WITHIN = 0.25
# Seconds to wait for something that was cancelled on another thread to end.
ENDS_WITHIN = 2.0


class Spare(asyncio.AbstractEventLoop):
    """What ``asyncio.get_event_loop()`` returns in ``none_runs``: a loop that is created when it is first used."""

    def __init__(self):
        object.__setattr__(self, "made", [])

    def __getattribute__(self, name):
        made = object.__getattribute__(self, "made")
        if name == "made":
            return made
        if name == "__class__":
            return Spare
        if not made:
            made.append(asyncio.new_event_loop())
        return getattr(made[0], name)

    def __setattr__(self, name, value):
        setattr(self.made[0], name, value)

    def __repr__(self):
        return repr(self.made[0]) if self.made else "<an event loop, not used yet>"

    def __del__(self):
        made = object.__getattribute__(self, "made")
        if made and not made[0].is_closed():
            made[0].close()


class none_runs:
    """A context in which no loop seems to run on this thread, so ``asyncio.run`` and ``run_until_complete`` work."""

    def __enter__(self):
        self._running = asyncio._get_running_loop()
        if self._running is not None:
            self._spare = Spare()
            asyncio._set_running_loop(None)
            asyncio.set_event_loop(self._spare)

    def __exit__(self, *raised):
        if self._running is None:
            return
        asyncio.set_event_loop(self._running)
        asyncio._set_running_loop(self._running)
        made = object.__getattribute__(self._spare, "made")
        if made and not made[0].is_running():
            made[0].close()


async def here(thing, shared=None):
    """Await ``thing``: a future of another running loop on that loop; anything else on the loop ``shared``, unless that
    is blocked. On a shared loop, things awaited at the same time can wait for each other."""
    own = asyncio.get_event_loop()
    is_bound = asyncio.isfuture(thing) and hasattr(thing, "get_loop")
    home = thing.get_loop() if is_bound else shared
    if home is None or home is own or not home.is_running():
        return await thing
    there = _Elsewhere(thing, home)
    try:
        await asyncio.wait([asyncio.wrap_future(there.begun)], timeout=None if is_bound else FREE_WITHIN)
        if there.take_back():
            return await thing
        return await asyncio.shield(asyncio.wrap_future(there.ended))
    except asyncio.CancelledError:
        if not there.take_back():
            there.cancel()
            await asyncio.wait([asyncio.wrap_future(there.over)], timeout=ENDS_WITHIN)
        elif hasattr(thing, "close"):
            thing.close()
        raise


class _Elsewhere:
    """Something to be awaited on another thread's loop as soon as that loop is free.

    Three futures: ``begun`` gives the task there, ``ended`` its result, ``over`` is done when its code has ended.
    """

    def __init__(self, thing, loop):
        self.begun, self.ended, self.over = (concurrent.futures.Future() for _ in range(3))
        self._thing, self._loop = thing, loop
        self._taken = threading.Lock()
        loop.call_soon_threadsafe(self._begin)

    def _begin(self):
        if self._taken.acquire(False):
            task = asyncio.ensure_future(self._wait(), loop=self._loop)
            asyncio.futures._chain_future(task, self.ended)
            self.begun.set_result(task)

    async def _wait(self):
        try:
            return await self._thing
        finally:
            self.over.set_result(None)

    def take_back(self):
        """Prevent it from beginning; returns False if it has begun already."""
        return self._taken.acquire(False)

    def cancel(self):
        self.begun.add_done_callback(lambda begun: self._loop.call_soon_threadsafe(begun.result().cancel))
