"""GPUs of the far side: by a driver's library that is made for the test, by a program, and by neither."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from farside import HERE, FlameServer, bare_pyro

import flame
from flame_kernel.commands.doctor import examine
from flame_kernel.connect.target import load_target

OOM = """
import sys, types
torch = sys.modules['torch'] = types.ModuleType('torch')
torch.cuda = types.SimpleNamespace(memory_summary=lambda abbreviated: '|   the allocator, in short   |')
class OutOfMemoryError(RuntimeError): pass
"""
SMI = """#!/bin/sh
case "$1" in
  --query-gpu*) echo "GPU-1, NVIDIA Slow, 8192, 1024, 12"; echo "GPU-2, NVIDIA Odd, 8192, 0, [N/A]" ;;
  *) echo "GPU-1, $PPID, 512"; echo "GPU-1, 1, 99"; echo "GPU-2, 1, [N/A]" ;;
esac
"""


def test_the_drivers_library(flame_server: Callable[..., FlameServer]) -> None:
    path = os.pathsep.join([str(HERE / "apps" / "fake_nvml"), bare_pyro()])
    server = flame_server(ipython=False, env={"PYTHONPATH": path})
    with flame.connect(server.location, place="process") as remote:
        lines = remote.top().splitlines()
        one = "GPU 0   NVIDIA Fake 1, 37 % busy, 30 GiB of 80 GiB used, 3 GiB and 21 % of its time by this process"
        assert [line for line in lines if line.startswith("GPU")] == [
            one,
            "GPU 1   NVIDIA Fake 2, 30 GiB of 80 GiB used, 0 bytes by this process",
        ]
        gpus = remote.session.usage("u").result(30)["gpus"]
        assert (gpus[0]["mine"], gpus[0]["mine_busy"], "busy" in gpus[1]) == (3 << 30, 21, False)
        events: list[dict[str, object]] = []
        remote.cell(OOM + "raise OutOfMemoryError('CUDA out of memory')", events.append).result(30)
        told = str(events)
        assert "the allocator, in short" in told
        assert "GPU 0 NVIDIA Fake 1: 30720 of 81920 MiB used, 3072 MiB by this process" in told
    found = [check.words for check in examine(load_target(server.location)) if check.name == "GPU"]
    assert found[0].startswith("GPU 0   NVIDIA Fake 1, 37 % busy")
    assert len(found) == 2


def test_the_program_and_no_gpu(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    server = flame_server(ipython=False, env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    with flame.connect(server.location, place="process") as remote:
        assert [line for line in remote.top().splitlines() if line.startswith("GPU")] == [
            "GPU 0   NVIDIA Slow, 12 % busy, 1 GiB of 8 GiB used, 512 MiB by this process",
            "GPU 1   NVIDIA Odd, 0 bytes of 8 GiB used, 0 bytes by this process",
        ]
        assert "gpus" not in remote.session.usage("u").result(30)  # asked again and again, so not by a program
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
        assert "GPU" not in remote.top()
        assert remote.session.usage("u2").result(30)["pid"] == server.pid
