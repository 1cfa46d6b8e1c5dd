"""An app whose main thread has to do with Flame in one of several ways: for cells on that thread.

    python main_app.py loop | pumped | asyncio | condition

loop       it runs ``daemon.requestLoop()``;  condition: … until ``stop`` is true
pumped     it has a loop of its own, which waits for the daemon's sockets and calls ``daemon.events()``
asyncio    the same under asyncio
"""

import asyncio
import os
import select
import signal
import sys
import threading

import Pyro4
import Pyro4.utils.flame

stop = False
rounds = traced = 0
heard = []
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1)
MAIN = threading.current_thread()


def on_hangup(signum, frame):
    heard.append(signum)


def state():
    """How the app finds itself: handlers, threads, what Pyro's server does, the loop of the main thread."""
    loop = getattr(asyncio.get_event_loop_policy(), "_local", None)
    return {
        "handlers": {
            n: str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
        },
        "threads": sorted(t.name for t in threading.enumerate() if not t.name.startswith("Pyro-Worker")),
        "events": "events" in vars(daemon.transportServer),
        "loop": sorted(vars(loop)) if threading.current_thread() is MAIN else None,
    }


def look():
    """What the app does on its main thread, in each round of its loop."""
    global rounds, traced
    rounds += 1
    traced += sys.gettrace() is not None
    return sys.argv[1] != "condition" or not stop


def pump():
    while not stop:
        look()
        ready = select.select(daemon.sockets, [], [], 0.2)[0]
        if ready:
            daemon.events(ready)


async def serve():
    loop = asyncio.get_running_loop()
    for sock in daemon.sockets:
        loop.add_reader(sock, daemon.events, [sock])
    while not stop:
        await asyncio.sleep(0.2)


Pyro4.config.SERIALIZERS_ACCEPTED = {"pickle"}
daemon = Pyro4.Daemon(host="localhost", port=0)
uri = Pyro4.utils.flame.start(daemon)
signal.signal(signal.SIGHUP, on_hangup)
FOUND = state()
print("app uri: %s" % uri, flush=True)
try:
    if sys.argv[1] == "pumped":
        pump()
    elif sys.argv[1] == "asyncio":
        asyncio.run(serve())
    else:
        daemon.requestLoop(loopCondition=look)
except KeyboardInterrupt:
    print("app interrupted", flush=True)
print("app left its loop", flush=True)
if os.environ.get("APP_STAYS"):
    threading.Event().wait()
