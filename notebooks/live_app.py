"""A small web service with a state: a kiln that is heated, asked by browsers, and whose readings are archived.

    python live_app.py

It prints where it is, and ends with its stdin. One line lets notebooks in: `flame.start(daemon)`. The rest of
`open_for_notebooks` gives that a key, a thread of its own, and writes down for `%flame connect kiln --config kiln.toml`
where it is.
"""

import asyncio
import collections
import json
import os
import queue
import secrets
import sys
import threading
import time

from Pyro4 import Daemon, config
from Pyro4.utils import flame


class Kiln:
    """The thing itself: it follows its target, a little every 20 ms."""

    def __init__(self):
        self.celsius = 20.0
        self.target = 900.0
        self.readings = collections.deque(maxlen=3000)  # (seconds since the epoch, celsius)

    async def heat(self, archive):
        while True:
            self.celsius += (self.target - self.celsius) * 0.02
            self.readings.append((time.time(), self.celsius))
            archive.put(self.readings[-1])
            await asyncio.sleep(0.02)


def to_fahrenheit(celsius):
    return celsius * 5 / 9 + 32


def warmest(readings):
    """The ten warmest readings, the warmest first."""
    found = []
    for reading in list(readings):
        found.append(reading)
        found.sort(key=lambda one: one[1], reverse=True)  # whoever wrote this had few readings
    return found[:10]


class Archive:
    """A thread that puts readings away, as long as it gets the disk."""

    def __init__(self):
        self.waiting = queue.Queue()
        self.put = self.waiting.put
        self.stored = 0
        self.disk = threading.Lock()
        threading.Thread(target=self.work, name="archive", daemon=True).start()

    def work(self):
        while True:
            self.store(self.waiting.get())

    def store(self, reading):
        self.disk.acquire()
        self.stored += 1
        if self.stored == 10:
            return  # the tenth is an odd one, and here somebody forgot something
        self.disk.release()


class Web:
    """Answers GET /celsius, /fahrenheit and /warmest in JSON; connections stay open."""

    def __init__(self, kiln):
        self.kiln = kiln
        self.served = collections.Counter()

    async def serve(self, reader, writer):
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass  # headers
                path = line.split()[1].decode()
                status, answer = self.answer(path)
                self.served[path] += 1
                body = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def answer(self, path):
        if path == "/celsius":
            return b"200 OK", round(self.kiln.celsius, 1)
        if path == "/fahrenheit":
            return b"200 OK", round(to_fahrenheit(self.kiln.celsius), 1)
        if path == "/warmest":
            return b"200 OK", warmest(self.kiln.readings)
        return b"404 Not Found", f"there is no {path}"


def open_for_notebooks():
    """Let notebooks into this process: whoever has the key can do all that it can."""
    config.FLAME_ENABLED, config.SERIALIZERS_ACCEPTED = True, {"pickle"}
    daemon = Daemon("127.0.0.1", 0)
    daemon._pyroHmacKey = secrets.token_hex(32).encode()
    place = flame.start(daemon).location
    threading.Thread(target=daemon.requestLoop, name="notebooks", daemon=True).start()
    for name, text in (
        ("kiln.key", daemon._pyroHmacKey.decode()),
        ("kiln.toml", f'[targets.kiln]\nlocation = "{place}"\nkey_file = "kiln.key"\n'),
    ):
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)


async def main():
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
    print("kiln at http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    heating = asyncio.ensure_future(kiln.heat(archive))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    heating.cancel()
    print("kiln off", flush=True)


if __name__ == "__main__":
    kiln = Kiln()
    archive = Archive()
    web = Web(kiln)
    open_for_notebooks()
    try:
        asyncio.run(main())
    finally:
        for name in ("kiln.key", "kiln.toml"):
            os.unlink(name)
