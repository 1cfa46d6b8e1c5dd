"""The agent's event log by itself, on whatever Python runs this, under a storm of interrupts.

    python event_log.py AGENT_FOLDER INTERRUPTS > answer.json

A thread writes numbered lines while KeyboardInterrupt is thrown into it again and again, and nobody reads; the answer
has the ``lines`` in the order in which they are read afterwards, which were ``written`` whole (their write returned),
how many interrupts ``came``, and the ``numbers`` of the events.
"""

import ctypes
import importlib
import json
import sys
import threading
import time

from mini_shell import load


def main():
    package = load(sys.argv[1])
    events = importlib.import_module(package + ".log.log")
    log = events.EventLog(bound=1 << 16, cap=64 << 20)
    log.detach()
    keeper = threading.Thread(target=log.keep_for_ever)
    keeper.start()
    over = threading.Event()
    state = {"begun": 0, "came": 0}
    written = []

    def write():
        try:
            while not over.is_set():
                state["begun"] += 1
                log.write("r", "stdout", "%d\n" % state["begun"])
                written.append(state["begun"])
        except KeyboardInterrupt:
            state["came"] += 1

    writer = None
    deadline = time.monotonic() + 40
    while state["came"] < int(sys.argv[2]) and time.monotonic() < deadline:
        if writer is None or not writer.is_alive():
            writer = threading.Thread(target=write)
            writer.start()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(writer.ident), ctypes.py_object(KeyboardInterrupt))
        time.sleep(0.002)
    over.set()
    writer.join()
    lines, numbers, ack = [], [], 0
    while True:
        batch = log.poll(ack)
        if not batch:
            break
        for event in batch:
            numbers.append(event["number"])
            lines.append(event["content"]["text"])
        ack = numbers[-1]
    log.close()
    keeper.join(10)
    log.forget()
    answer = {"lines": [int(n) for n in "".join(lines).split()], "numbers": numbers, "written": written}
    json.dump(dict(answer, came=state["came"], kept=not keeper.is_alive()), sys.stdout)


if __name__ == "__main__":
    main()
