"""Completion where jedi's cache, which is the user's, has half a file, left by a process that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from farside import FlameServer, LiveApp, wait_until
from kernels import remote_flame

CODE = "import keyword\nkeyword.iskeyw"  # two small files to parse
FILL = f"import jedi; print(jedi.Interpreter({CODE!r}, [{{}}]).complete())"
WHERE = "import jedi, parso.cache\n(jedi.settings.cache_directory, parso.cache._load_from_file_system.__module__)"


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which every file that completing CODE needs was cut off half-way."""
    folder = tmp_path_factory.mktemp("cache")
    environ = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run([sys.executable, "-c", FILL], env=environ, capture_output=True, text=True, check=True)
    assert "iskeyword" in done.stdout
    for path in kept(folder):
        os.truncate(path, path.stat().st_size // 2)
    assert kept(folder)
    return folder


def kept(folder: Path) -> dict[Path, bytes]:
    """What is in jedi's folder there."""
    return {path: path.read_bytes() for path in (folder / "jedi").rglob("*.pkl")}


@pytest.mark.parametrize("shell", ["ipython", "mini"])
@pytest.mark.parametrize("place", ["child", "process"])
def test_half_a_file_in_jedis_cache_costs_no_completion(
    flame_server: Callable[..., FlameServer],
    live_app: Callable[..., LiveApp],
    spoiled: Path,
    place: str,
    shell: str,
) -> None:
    before = kept(spoiled)
    server = (flame_server if place == "child" else live_app)(env={"XDG_CACHE_HOME": str(spoiled)})
    environ: dict[str, str | None] = {"FLAME_TARGET": server.location, "FLAME_SHELL": shell}
    with remote_flame(env=environ) as kernel:
        # The kernel gives up on a completion that takes long, as the first one does on a busy machine.
        wait_until(lambda: kernel.complete(CODE)["matches"], "a completion", 30)
        assert [match.rpartition(".")[2] for match in kernel.complete(CODE)["matches"]] == ["iskeyword"]
        moved = kernel.execute(WHERE).result
        assert moved
        assert "flame_jedi_" in moved
    if place == "process":
        with remote_flame(env=environ) as kernel:  # has not completed: it finds jedi as the one before has left it
            assert kernel.execute(WHERE).result == repr((str(spoiled / "jedi"), "parso.cache"))
    assert before.items() <= kept(spoiled).items()  # what is as it should be jedi may add to
