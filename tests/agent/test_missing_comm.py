"""A far side without the ``comm`` package, which widgets need, and one that gets it while a session is there."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import farside
from rawagent import raw_agent

COUNTED = """
import sys
class Counting:
    def find_spec(self, name, path=None, target=None):
        sys.searches = getattr(sys, "searches", 0) + (name == "comm")
sys.meta_path.insert(0, Counting())
"""


def test_a_missing_comm_is_searched_once_and_found_when_it_comes(tmp_path: Path) -> None:
    """A search takes as long as the rest of a short cell; but a cell may install what the next one needs."""
    bare = next(one for one in reversed(farside.pythons()) if not one.ipython)
    found = importlib.util.find_spec("comm")
    assert found is not None
    assert found.origin is not None
    with farside.stopped(farside.FlameServer(bare)) as server, raw_agent(server.location, "searching") as agent:
        agent.open(place="process")
        agent.run(f"{COUNTED}sys.path.append({str(tmp_path)!r})")
        agent.run("1")
        before = int(agent.run("sys.searches").strip())
        assert agent.run("sys.searches").strip() == str(before)
        shutil.copytree(Path(found.origin).parent, tmp_path / "comm")
        agent.wait_for("execute_reply", agent.submit("import comm; made = comm.create_comm(target_name='later')"))
        assert [one["content"]["target_name"] for one in agent.events if one["type"] == "comm_open"] == ["later"]
