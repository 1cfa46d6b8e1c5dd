"""The floors of the house: who may import whom, read from the text of the files, imports inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import farside
import pytest

from flame_kernel import bootstrap

PACKAGE = Path(bootstrap.__file__).parent
AGENT = PACKAGE / "agent"

# A file imports only from floors below its own.
FLOORS = (
    # Both sides import these.
    ("agent.wire", "agent.values", "agent.leaves", "agent.pieces", "agent.frames", "agent.trees"),
    ("errors", "options", "amounts", "neighbour", "waits", "fronts", "under_way", "settings", "cli_index", "scripts"),
    ("unpickler", "interrupts"),
    ("location", "keys", "security", "trouble", "terminal", "pictures", "progress", "taken_over", "trust"),
    ("rendering",),
    ("targets", "tls", "tunnel", "certs", "framing", "serializers"),
    ("config", "hardening", "ignition", "serving"),
    ("serve_alone", "serve_app", "ignite", "cli_command", "kernelspec"),
    ("dial",),
    ("transport", "inbox", "bootstrap", "server"),
    ("naming",),
    ("link", "opening", "takeover"),
    ("session", "uploads", "visitor", "stranger"),
    ("downloads", "doctor", "status"),
    ("transfer", "modules", "foreground"),
    ("console", "sync"),
    ("far", "publisher", "prompts", "history", "commands", "source", "raised", "ahead", "looks", "shells"),
    ("bulk",),
    ("calls",),
    ("proxy",),
    ("functions",),
    ("remote",),
    ("magic_comms",),
    ("jobs", "magic_output", "magic_connections", "magic_lines"),
    ("magic_cells",),
    ("magic_commands",),
    ("magic_completion",),
    ("magics",),
    ("link_line", "replay", "overtaking"),
    ("orders", "debugger"),
    ("kernel",),
    ("app",),
    ("cli_connect", "cli_output", "prompt"),
    ("cli_notebook",),
    # The commands, which are loaded by their names.
    ("cli_app", "cli_serve", "cli_ignite", "cli_certs", "cli_targets", "cli_discover", "cli_doctor"),
    ("cli_install", "cli_run", "cli_sessions", "cli_files", "cli_completion"),
    ("cli_console",),
    ("cli", "__main__"),
)

# What runs in a server, or makes one: nothing there reads what a server sends.
SERVING = {"hardening", "ignition", "serve_alone", "serve_app"}

# Libraries with state or weight of their own are kept to the rooms that need them.
ROOMS = {
    "Pyro4": {"transport", "naming", "stranger", "doctor", "security", "server", *SERVING},
    "ipykernel": {"kernel", "overtaking", "shells", "publisher", "app"},
    "IPython": {"source", "history", "magics", "magic_cells", "magic_commands", "magic_completion", "magic_lines"},
    "tqdm": {"progress"},
    "prompt_toolkit": {"prompt"},
    "pygments": {"prompt"},
    "nbclient": {"cli_notebook"},
}


def imports(path: Path) -> list[tuple[int, str, str]]:
    """``(level, module, name)`` of every import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module or "", alias.name) for alias in node.names]
    return found


def local_imports(path: Path) -> set[str]:
    """The siblings that a file of the local side imports, ``agent.wire`` by that name."""
    found = set()
    for level, module, name in imports(path):
        if level == 1:
            first = module or name
            found.add(f"agent.{name}" if first == "agent" else first)
        elif module.split(".")[0] == "flame_kernel":
            found.add(".".join(module.split(".")[1:]) or name)
    return found - {"__version__"}


LOCAL = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_every_file_has_a_floor() -> None:
    assert set(LOCAL) == {name for floor in FLOORS for name in floor if "." not in name}


@pytest.mark.parametrize("name", LOCAL)
def test_a_file_imports_only_from_below(name: str) -> None:
    height = {one: index for index, floor in enumerate(FLOORS) for one in floor}
    for other in local_imports(PACKAGE / f"{name}.py"):
        assert other in height, f"{name} imports {other}: of the agent only what is on a floor"
        assert height[other] < height[name], f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_is_imported_in_its_rooms_only(library: str) -> None:
    users = {
        name
        for name in LOCAL
        for level, module, _ in imports(PACKAGE / f"{name}.py")
        if level == 0 and module.split(".")[0] == library
    }
    assert users <= ROOMS[library]


def test_the_package_itself_imports_nothing_heavy() -> None:
    heavy = "import sys, flame_kernel; print(sorted(name for name in sys.modules if name.startswith('flame_kernel.')))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout == "[]\n"


def test_the_bundle_is_the_whole_agent_in_the_order_of_its_imports() -> None:
    sources = {path.stem: path.read_text() for path in AGENT.glob("*.py") if path.stem not in ("__init__", "loader")}
    order = [name for name, _ in bootstrap.in_order(sources)]
    assert sorted(order) == sorted(sources)
    for name in sources:
        found = [(module, item) for level, module, item in top_level_imports(AGENT / f"{name}.py") if level]
        assert list(bootstrap.imports(name, sources[name])) == found
        for module, item in found:
            sibling = module or item
            assert order.index(sibling) < order.index(name), f"{name} imports {sibling}, which is pushed after it"


def top_level_imports(path: Path) -> list[tuple[int, str, str]]:
    """Imports that happen when the file is loaded: those outside functions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            node.body = [] if not isinstance(node, ast.Lambda) else node.body
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module or "", alias.name) for alias in node.names]
    return found


def test_the_agent_needs_the_standard_library_only() -> None:
    optional = {
        "numpy",
        "pandas",
        "pyarrow",
        "cloudpickle",
        "IPython",
        "psutil",
        "matplotlib",
        "matplotlib_inline",
        "jedi",
        "ipykernel",
        "traitlets",
        "Pyro4",
        "comm",
        "debugpy",
        "pydevd",
        "pydevd_tracing",
        "_pydevd_bundle",
        "_pydevd_sys_monitoring",
    }
    for path in AGENT.glob("*.py"):
        for level, module, _ in top_level_imports(path):
            root = module.split(".")[0]
            assert level or root in sys.stdlib_module_names, f"{path.name} imports {module} when it is loaded"
        for level, module, _ in imports(path):
            root = module.split(".")[0]
            assert level or root in sys.stdlib_module_names or root in optional, f"{path.name} imports {module}"
            assert root != "flame_kernel", f"{path.name} imports the local side"


def test_the_agent_compiles_on_every_python(each_python: farside.Python) -> None:
    script = "import sys\nfor p in sys.argv[1:]: compile(open(p, encoding='utf-8').read(), p, 'exec')"
    subprocess.run([each_python.path, "-c", script, *map(str, AGENT.glob("*.py"))], check=True, timeout=60)


def test_no_file_opens_what_a_server_sends() -> None:
    """S04: nothing that could run code on what comes from a server stands on the client's path."""
    forbidden_calls = {"eval", "exec", "__import__"}
    forbidden_attributes = {
        ("pickle", "loads"),
        ("pickle", "load"),
        ("pickle", "Unpickler"),
        ("marshal", "loads"),
        ("marshal", "load"),
        ("dill", "loads"),
        ("cloudpickle", "loads"),
        ("importlib", "import_module"),
    }
    for name in LOCAL:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden_calls, f"{name} line {node.lineno}: {node.func.id}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                harmless = name == "trust"  # the one room for pickles, which asks whether the user trusts their server
                assert harmless or (node.value.id, node.attr) not in forbidden_attributes, f"{name} line {node.lineno}"
        for level, module, item in imports(PACKAGE / f"{name}.py"):
            if not level and module.startswith("Pyro4") and name not in SERVING:
                assert (module, item) not in {("Pyro4", "Proxy"), ("Pyro4.core", "Proxy"), ("Pyro4.utils", "flame")}
                assert module not in {"Pyro4.core", "Pyro4.utils.flame"}, f"{name} imports {module}"
