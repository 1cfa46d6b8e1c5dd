"""The rooms of the package: where they are, and who may import whom."""

from __future__ import annotations

from pathlib import Path

from flame_kernel.session import bootstrap

PACKAGE = Path(bootstrap.__file__).parents[1]
AGENT = PACKAGE / "agent"

# A room imports from rooms to its left, and never from one on its own step. Of the agent, this side imports wire,
# and of forward what both sides run.
HERE = (
    "terminal < errors < security < connect < serve, session < files, commands, forward, old_python "
    "< packages, profile, hot < remote < group, cluster, mcp < kernel, magics, cli"
)
# The agent's files that lie beside its rooms are below them all; handle, the whole interface, is above them.
THERE = "wire, output < log, shell, forward < remote, debug, profile < hot < session < handle"


def name_of(path: Path, root: Path) -> str:
    """The dotted name of a file or a folder below ``root``."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


def files(root: Path) -> dict[str, Path]:
    """The files below ``root`` that are no doors, by their dotted names."""
    return {name_of(path, root): path for path in sorted(root.rglob("*.py")) if path.name != "__init__.py"}
