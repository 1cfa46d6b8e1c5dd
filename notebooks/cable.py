"""A server that can only be reached over a cable, so that there is something to cut; for `05-sessions-that-survive`.

    python cable.py

Makes the folder `trip` with a flame server in it, its key, and the cable; says so, and ends with its stdin, and the folder
with it. A line `cut 2` cuts the cable for two seconds.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys

ends, ways = [], set()  # of what goes through the cable, and what carries it
whole = asyncio.Event()


async def carry(reader, writer):
    """Pass on bytes, one way."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def plugged_in(reader, writer):
    """Somebody connects to the near end."""
    if not whole.is_set():
        writer.close()
        return
    far_reader, far_writer = await asyncio.open_unix_connection("trip/server")
    ends.extend((writer, far_writer))
    ways.add(asyncio.current_task())
    await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
    ways.discard(asyncio.current_task())


async def cut(seconds=None):
    """For so long; for ever without ``seconds``."""
    whole.clear()
    while ends:
        ends.pop().transport.abort()
    if seconds is None:
        await asyncio.gather(*ways)
    else:
        await asyncio.sleep(seconds)
        whole.set()


async def main():
    whole.set()
    await asyncio.start_unix_server(plugged_in, "trip/cable")
    print("the server waits at the other end of trip/cable", flush=True)
    loop, cuts = asyncio.get_running_loop(), []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        cuts.append(asyncio.create_task(cut(float(line.split()[-1]))))
    for one in cuts:
        one.cancel()
    await cut()


shutil.rmtree("trip", ignore_errors=True)  # of one that was killed
os.mkdir("trip", mode=0o700)
command = [sys.executable, "-m", "flame_kernel.cli", "serve", "--unix", "trip/server", "--key-file", "trip/key"]
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # jupyter flame serve …
try:
    server.stdout.readline()
    asyncio.run(main())
finally:
    server.terminate()
    server.wait()
    shutil.rmtree("trip")
