"""Reading in a process that may crash, take too long or want too much memory: what came of each input, as facts."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Bytes that a case may have more than the process had before; and seconds of the processor.
MEMORY = 700 << 20
SECONDS = 20


def outcomes(cases: dict[str, list[bytes]], memory: int = MEMORY) -> dict[str, dict[str, Any]]:
    """Each case (the parts of a value) is read in a fork of one process that has the libraries already.

    Of each: ``how`` (read, refused, crashed, or the class of another exception), ``words``, ``grown`` in bytes.
    """
    command = [sys.executable, str(Path(__file__)), str(memory)]
    run = subprocess.run(command, input=pickle.dumps(cases), capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    found: dict[str, dict[str, Any]] = json.loads(run.stdout)
    return found


def limit(memory: int, seconds: int) -> None:
    """From now on this process gets so many bytes of addresses more, and so many seconds."""
    size = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds))


def peak() -> int:
    """The most bytes of memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def libraries() -> None:
    """Have everything imported and warm that reading a value wants."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute

    from flame_kernel.agent.wire import values

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    periods = pd.DataFrame({"p": pd.period_range("2020", periods=2, freq="M")})  # registers pandas' types with Arrow
    for one in (
        np.arange(3),
        pd.DataFrame({"a": ["x"]}),
        periods,
        pa.table({"a": pa.array(["x"]).dictionary_encode()}),
    ):
        repr(values.decode([bytes(part) for part in values.encode(one)]))


def read(parts: list[bytes]) -> tuple[str, str]:
    """``(how, words)``; what was read is shown as well, for that is what a user's next step does."""
    from flame_kernel.agent.wire import values

    try:
        value = values.decode(parts)
    except values.BadValue as error:
        return "refused", str(error)
    except Exception as error:
        return type(error).__name__, str(error)
    try:
        return "read", repr(value)[:200]
    except MemoryError:
        return "MemoryError", "when it was shown"
    except Exception as error:  # of pandas' or numpy's, for odd values: an ordinary error of the user's own step
        return "read", f"{type(error).__name__} when it was shown"


def _one(parts: list[bytes], memory: int, write: int) -> None:
    limit(memory, SECONDS)
    before = peak()
    how, words = read(parts)
    os.write(write, json.dumps({"how": how, "words": words[:300], "grown": peak() - before}).encode())


def _main() -> None:
    cases = pickle.loads(sys.stdin.buffer.read())
    libraries()
    found = {}
    for name, parts in cases.items():
        get, give = os.pipe()
        child = os.fork()
        if not child:
            try:
                _one(parts, int(sys.argv[1]), give)
            finally:
                os._exit(0)
        os.close(give)
        with os.fdopen(get, "rb") as answer:
            told = answer.read()
        _, status = os.waitpid(child, 0)
        crashed = {"how": "crashed", "words": f"signal {os.WTERMSIG(status)}", "grown": 0}
        found[name] = json.loads(told) if told and not os.WIFSIGNALED(status) else crashed
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
