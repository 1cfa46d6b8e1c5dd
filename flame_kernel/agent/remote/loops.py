"""Lets code that is called (not awaited) run event loops of its own on a lane's thread, whose loop is running."""

import asyncio
import contextlib


class Spare(asyncio.AbstractEventLoop):
    """The result of ``asyncio.get_event_loop()`` meanwhile: a loop that is created when it is first used."""

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
        if self.made and not self.made[0].is_closed():
            self.made[0].close()


@contextlib.contextmanager
def none_runs():
    """A context in which no loop seems to run on this thread, so ``asyncio.run`` and ``run_until_complete`` work."""
    running = asyncio._get_running_loop()
    if running is None:
        yield
        return
    spare = Spare()
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(spare)
    try:
        yield
    finally:
        asyncio.set_event_loop(running)
        asyncio._set_running_loop(running)
        if spare.made and not spare.made[0].is_running():
            spare.made[0].close()


async def here(thing):
    """Await something on this thread's loop, also if it is a future of another running loop."""
    home = thing.get_loop() if asyncio.isfuture(thing) and hasattr(thing, "get_loop") else None
    if home is not None and home is not asyncio.get_event_loop() and home.is_running():

        async def wait():
            return await thing

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(wait(), home))
    return await thing
