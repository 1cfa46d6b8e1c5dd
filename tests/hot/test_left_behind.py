"""What looking into a live app, changing it and rails leave in it after a detach: nothing but the agent itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from farside import LiveApp, wait_until

import flame

APPS = Path(__file__).parents[1] / "apps"
# All of the app that one of these might change: its modules, threads, loggers, hooks, code of its functions.
LOOK = """
(lambda gc, json, logging, sys, threading, tracemalloc, fixed: json.dumps({
    "modules": sorted(name for name in sys.modules if not name.startswith("flame_agent")),
    "threads": sorted(thread.name for thread in threading.enumerate()),
    "handlers": [repr(one) for one in logging.getLogger("remote_flame").handlers + logging.getLogger().handlers],
    "loggers": sorted(logging.getLogger().manager.loggerDict),
    "level": logging.getLogger("remote_flame").level,
    "finders": [repr(type(one)) for one in sys.meta_path],
    "path": sys.path, "hooks": [repr(one) for one in sys.path_hooks],
    "code": [fixed.plain.__code__.co_filename, fixed.Thing.sm.__code__.co_filename],
    "traced": tracemalloc.is_tracing(), "profile": repr(sys.getprofile()), "trace": repr(sys.gettrace()),
    "callbacks": [repr(one) for one in gc.callbacks],
    "patched": [repr(one) for one in (__import__, open, print, threading.Thread.start, logging.Logger.handle)],
}))(*map(__import__, "gc json logging sys threading tracemalloc fixed_app".split()))
"""


def look(app: LiveApp) -> dict[str, object]:
    """What the app finds of itself, on its own main thread."""
    answer: str = app.ask("evaluate", LOOK.replace("\n", " "))
    found: dict[str, object] = json.loads(eval(answer))
    return found


def test_nothing_stays_after_a_detach(
    live_app: Callable[..., LiveApp], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = live_app(env={"PYTHONPATH": str(APPS)})
    with flame.connect(app.location, shell="mini", place="process") as first:
        first.execute("import fixed_app")
        first.profile(0.1, scope="all")  # what of the standard library is imported for it stays
        first.memory("start")
        first.memory("stop")
        with first.hot(project):
            first.execute("import shop")
    wait_until(lambda: not _ours(look(app)), "the end of the first session")
    alone = look(app)
    file = tmp_path / "targets.toml"
    file.write_text(f'[targets.prod]\nlocation = "{app.location}"\n[targets.prod.rails]\nconfirm = true\n')
    file.chmod(0o600)
    monkeypatch.setenv("FLAME_CONFIG", str(file))
    pi = flame.connect("prod", shell="mini", place="process", session="looking")
    try:
        pi.execute("1")
        before = look(app)
        pi.profile(0.2, scope="all")
        pi.memory("start")
        pi.memory()
        pi.memory("stop")
        hot = pi.hot(project)
        pi.execute("import shop; shop.Cart().total()")
        pi.hotfix("fixed_app.Thing.sm", '@staticmethod\ndef sm():\n    return "new"').undo()
        pi.modules.os.getpid()
        hot.close()
        pi.detach()
        after = look(app)
        assert {name: value for name, value in after.items() if name != "threads"} == {
            name: value for name, value in before.items() if name != "threads"
        }
        assert [name for name in after["threads"] if "profile" in name or "hot" in name or "audit" in name] == []
    finally:
        flame.connect("prod", session="looking").close()
    wait_until(lambda: look(app) == alone, "the end of the second session")


def _ours(found: dict[str, object]) -> list[str]:
    threads = found["threads"]
    assert isinstance(threads, list)
    return [name for name in threads if name.startswith("flame-")]
