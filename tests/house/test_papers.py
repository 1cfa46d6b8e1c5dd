"""README and the pages that it leads to: their commands are those that are tested, their links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

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
