"""The user's IPython profile there: configuration and startup files, where the process is the session's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels import Kernel
from places import Site, kernel_at, ok, uncoloured

FILES = {
    "ipython_config.py": """
c.InteractiveShell.ast_node_interactivity = "all"
c.InteractiveShellApp.extensions = ["storemagic", "no_such_extension"]
c.InteractiveShellApp.exec_lines = ["line = 7"]
""",
    "ipython_kernel_config.py": "raise LookupError('in the configuration')",
    "startup/00-names.py": "import math as m\nprint('started', __name__)\nclass Mine: pass\n",
    "startup/10-magics.ipy": "%alias_magic clock time\n",
    "startup/20-fails.py": "1 / 0\n",
}


@pytest.fixture(scope="module", params=["child", "process"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ipython")
    for name, text in FILES.items():
        file = folder / "profile_default" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with kernel_at(request.param, env={"IPYTHONDIR": str(folder)}) as site:
        yield site


def test_the_first_cell_finds_what_startup_files_made_and_shows_what_failed(site: Site, kernel: Kernel) -> None:
    run = kernel.execute("m.pi\nline")
    assert run.reply is not None
    if not site.in_child:
        assert run.reply["ename"] == "NameError"  # an app is not ours to configure
        return
    assert ok(run).reply["execution_count"] == 1  # type: ignore[index]
    shown = [m.content["data"]["text/plain"] for m in run.output if m.type == "execute_result"]
    assert shown == ["3.141592653589793", "7"]  # both: the configuration says so
    assert run.stdout.startswith("started __main__\nCreated `%clock`")
    failed = run.stderr + uncoloured(run.traceback)
    for words in ("LookupError: in the configuration", "no_such_extension", "20-fails.py", "ZeroDivisionError"):
        assert words in failed
    assert "flame_agent" not in failed
    run = ok(kernel.execute("%clock 1 + 1\nimport pickle; pickle.loads(pickle.dumps(Mine()))\n'__file__' in globals()"))
    assert "started" not in run.stdout
    assert run.result == "False"


@pytest.mark.leaves("the new process, which the next tests use")
def test_a_new_process_starts_so_too(site: Site, kernel: Kernel) -> None:
    if not site.in_child:
        pytest.skip("an app is not ours to configure")
    kernel.execute("import os; os._exit(1)")
    assert ok(kernel.execute("line")).result == "7"
