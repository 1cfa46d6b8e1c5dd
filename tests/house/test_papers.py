"""README and the pages that it leads to: their commands are those that are tested, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from farside import FlameServer, pythons, stopped

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
PAGES = (
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "flame_kernel/README.md",
    "tests/README.md",
    "notebooks/REFERENCE.md",
)


def test_the_readme_names_the_commands_that_are_tested() -> None:
    assert "pip install '.[test]' && python -m pytest" in README
    assert "pip install '.[test]' && python -m pytest" in (ROOT / ".ci" / "run").read_text()


def test_the_first_page_is_short() -> None:
    assert len(README.splitlines()) <= 220
    first = "\n".join(README.splitlines()[:60])
    for told in ("## Two commands", "python -m venv", "jupyter lab", "--key-file", "jupyter flame doctor"):
        assert told in first


def test_the_script_of_the_readme_runs(tmp_path: Path) -> None:
    """Its library example, as it stands, on a server on this machine."""
    [script] = [code for code in re.findall(r"```python\n(.+?)```", README, re.DOTALL) if "import flame" in code]
    (tmp_path / "model.bin").write_bytes(b"model")
    (tmp_path / "there").mkdir()
    with stopped(FlameServer(pythons()[-1])) as server:
        script = script.replace("ssh://you@the-machine/9999", server.location).replace("/tmp/", f"{tmp_path}/there/")
        (tmp_path / "script.py").write_text(script)
        asked = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (asked.returncode, asked.stderr) == (0, "")
    names, total, hostname = asked.stdout.split("\n", 2)
    assert names.startswith("[")
    assert (total, hostname.strip()) == ("3", Path("/etc/hostname").read_text().strip())
    assert (tmp_path / "there" / "model.bin").read_bytes() == b"model"


def file_of(link: str, page: Path) -> Path | None:
    """The file of the project that a link leads to; None where it leads elsewhere."""
    repository = URLS["Repository"]
    for start in (f"{repository}/blob/main/", repository.replace("github.com", "raw.githubusercontent.com") + "/main/"):
        if link.startswith(start):
            return ROOT / link.removeprefix(start)
    return None if ":" in link or link.startswith("#") else page.parent / link


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        file = file_of(link.partition("#")[0] or page, path)
        assert file is None or file.exists(), f"{page} points to {link}"


def test_the_readme_can_be_read_away_from_its_folder() -> None:
    """A package index shows it too, where a relative link leads nowhere."""
    assert not [link for link in re.findall(r"\]\(([^)\s]+)\)", README) if ":" not in link]
    assert not [url for name, url in URLS.items() if not url.startswith(URLS["Repository"])]


def test_the_tests_of_every_promise_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (`.+`) \|$", text.partition("## What shows it")[2], re.MULTILINE)
    named = [name for _, names in rows for name in re.findall(r"`([^`]+)`", names)]
    for name in named:
        path, _, function = name.partition("::")
        assert (ROOT / "tests" / path).exists(), f"SECURITY.md names {path}"
        assert f"def {function}" in (ROOT / "tests" / path).read_text(encoding="utf-8") if function else True
    there = {f"security/{path.name}" for path in (ROOT / "tests" / "security").glob("test_*.py")}
    assert there <= set(named), "a file of attacks that SECURITY.md does not name"
