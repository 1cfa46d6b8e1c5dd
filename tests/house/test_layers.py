"""Who may import whom: two lines, kept for every import in every file, those inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import farside
import pytest
from rooms import AGENT, HERE, PACKAGE, THERE, files, name_of

from flame_kernel.session import bootstrap

# Libraries with state or weight of their own are kept to the files that need them.
USERS = {
    "Pyro4": {
        "connect.pyro_message",
        *("connect.connection", "connect.name_server", "security.reader", "commands.identify", "commands.doctor"),
        *("serve.embedded", "serve.hardening", "serve.ignition", "serve.standalone", "serve.in_app"),
    },
    "ipykernel": {
        "kernel.kernel",
        "kernel.dispatch",
        "kernel.subshells",
        "kernel.iopub",
        "kernel.outgoing",
        "kernel.app",
    },
    "IPython": {
        *("commands.cell_text", "kernel.history", "magics.extension", "magics.cells", "magics.commands"),
        *("magics.completion", "magics.px"),
    },
    "tqdm": {"files.progress", "group.future"},
    "argcomplete": {"cli.completion"},
    "prompt_toolkit": {"remote.prompt"},
    "pygments": {"remote.prompt"},
    "nbclient": {"cli.subcommands.notebook"},
}

# What runs in a server, or makes one: nothing there reads what a server sends.
SERVING = {"serve.hardening", "serve.ignition", "serve.standalone", "serve.in_app"}


# What both sides run of the agent, beside wire.
BOTH = {f"agent.forward.{name}" for name in ("channels", "listeners", "pump", "streams")}

ALL = files(PACKAGE)
LOCAL = {name: path for name, path in ALL.items() if not name.startswith("agent.")}
REMOTE = files(AGENT)
ROOMS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def imports(path: Path, loaded: bool = False) -> Iterator[tuple[int, str, str]]:
    """``(level, module, name)`` of the imports in a file; with ``loaded`` of those alone that happen when it is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if loaded and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or "", alias.name) for alias in node.names)


def siblings(name: str, path: Path, known: dict[str, Path], package: str | None = "flame_kernel") -> set[str]:
    """The files among ``known`` that a file imports; AssertionError for a door, which holds no code."""
    found = set()
    for level, module, item in imports(path):
        if level:
            base = name.split(".")[:-level]
        elif package is not None and module.split(".")[0] == package:
            base, module = [], module.partition(".")[2]
        else:
            continue
        dotted = ".".join([*base, *filter(None, [module])])
        one = next((one for one in (f"{dotted}.{item}".lstrip("."), dotted) if one in known), None)
        if one is None:
            assert item == "__version__", f"{name} imports {item} of {dotted or 'the package'}: it has no such file"
        else:
            found.add(one)
    return found


def steps(rule: str) -> dict[str, int]:
    return {room.strip(): step for step, rooms in enumerate(rule.split("<")) for room in rooms.split(",")}


def room_here(name: str) -> str:
    return name.split(".")[0]


def room_there(name: str) -> str:
    return name.split(".")[0] if "." in name or name == "handle" else "ground"


@pytest.mark.parametrize("name", LOCAL)
def test_a_file_imports_from_rooms_below_its_own(name: str) -> None:
    step = steps(HERE + " < __main__")
    for other in siblings(name, LOCAL[name], ALL):
        if room_here(other) == "agent":
            shared = other.startswith("agent.wire.") or other in BOTH
            assert shared, f"{name} imports {other}: of the agent this side has wire, and what both sides run"
        elif room_here(other) != room_here(name):
            assert step[room_here(other)] < step[room_here(name)], f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("name", REMOTE)
def test_a_file_of_the_agent_imports_from_rooms_below_its_own(name: str) -> None:
    step = steps("ground < " + THERE)
    for other in siblings(name, REMOTE[name], REMOTE, None):
        if room_there(other) != room_there(name):
            assert step[room_there(other)] < step[room_there(name)], f"{name} imports {other}, which is not below it"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name: siblings(name, path, ALL) for name, path in ALL.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(f"a circle: {' > '.join(e.args[1])}", pytrace=False)


def test_a_room_is_small_enough_to_know() -> None:
    for room in [PACKAGE, *ROOMS]:
        count = len([path for path in room.glob("*.py") if path.name != "__init__.py"])
        assert count <= 22, f"{room.name} has {count} files"


def test_a_file_has_one_concern() -> None:
    """A file of more than 500 lines has a second concern, which gets a file of its own."""
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in ALL.items()}
    assert {name: count for name, count in lines.items() if count > 500} == {}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: name_of(room, PACKAGE))
def test_a_door_is_three_lines_and_no_code(room: Path) -> None:
    text = (room / "__init__.py").read_text(encoding="utf-8")
    (only,) = ast.parse(text).body
    assert isinstance(only, ast.Expr), f"the door of {room.name} has code"
    said = [line for line in str(ast.literal_eval(only.value)).splitlines() if line.strip()]
    assert len(said) == 3, f"the door of {room.name} has {len(said)} lines"


@pytest.mark.parametrize("library", USERS)
def test_a_library_is_imported_where_it_is_needed_only(library: str) -> None:
    users = {
        name
        for name, path in LOCAL.items()
        for level, module, _ in imports(path)
        if level == 0 and module.split(".")[0] == library
    }
    assert users <= USERS[library]


def test_the_package_itself_imports_nothing_heavy() -> None:
    heavy = "import sys, flame_kernel; print(sorted(name for name in sys.modules if name.startswith('flame_kernel.')))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout == "[]\n"


def test_the_bundle_is_the_whole_agent_in_the_order_of_its_imports() -> None:
    sources = {name: path.read_text(encoding="utf-8") for name, path in REMOTE.items() if name != "loader"}
    order = [name for name, _ in bootstrap.in_order(sources)]
    assert sorted(order) == sorted(sources)
    for name in sources:
        above = name.split(".")
        found = [
            (".".join([*above[:-level], *filter(None, [module])]), item)
            for level, module, item in imports(REMOTE[name], loaded=True)
            if level
        ]
        assert sorted(bootstrap.imports(name, sources[name])) == sorted(found)
        for base, item in found:
            one = next(one for one in (f"{base}.{item}".lstrip("."), base) if one in sources)
            assert order.index(one) < order.index(name), f"{name} imports {one}, which is pushed after it"


def test_what_is_wrong_with_the_order_is_said() -> None:
    with pytest.raises(ValueError, match=r"a circle of imports: a > room.b > a"):
        bootstrap.in_order({"a": "from .room import b\n", "room.b": "from .. import a\n"})
    with pytest.raises(ValueError, match=r"a imports room\.c, which is not there"):
        bootstrap.in_order({"a": "from .room import c\n"})


def test_the_agent_needs_the_standard_library_only() -> None:
    optional = {
        *(
            "numpy",
            "pandas",
            "pyarrow",
            "polars",
            "torch",
            "ml_dtypes",
            "cloudpickle",
            "IPython",
            "psutil",
            "matplotlib",
            "matplotlib_inline",
            "jedi",
        ),
        *("ipykernel", "traitlets", "Pyro4", "comm", "debugpy", "pydevd", "pydevd_tracing", "_pydevd_bundle"),
        "_pydevd_sys_monitoring",
    }
    for name, path in REMOTE.items():
        for level, module, _ in imports(path, loaded=True):
            root = module.split(".")[0]
            assert level or root in sys.stdlib_module_names, f"{name} imports {module} when it is loaded"
        for level, module, _ in imports(path):
            root = module.split(".")[0]
            assert level or root in sys.stdlib_module_names or root in optional, f"{name} imports {module}"
            assert root != "flame_kernel", f"{name} imports the local side"


def test_the_agent_compiles_on_every_python(each_python: farside.Python) -> None:
    script = "import sys\nfor p in sys.argv[1:]: compile(open(p, encoding='utf-8').read(), p, 'exec')"
    subprocess.run([each_python.path, "-c", script, *map(str, REMOTE.values())], check=True, timeout=60)


def test_no_file_opens_what_a_server_sends() -> None:
    """Nothing that could run code on what comes from a server stands on the client's path."""
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
    for name, path in LOCAL.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden_calls, f"{name} line {node.lineno}: {node.func.id}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                harmless = name == "security.trust"  # the one file for pickles, used where the user trusts the server
                assert harmless or (node.value.id, node.attr) not in forbidden_attributes, f"{name} line {node.lineno}"
        for level, module, item in imports(path):
            if not level and module.startswith("Pyro4") and name not in SERVING:
                assert (module, item) not in {("Pyro4", "Proxy"), ("Pyro4.core", "Proxy"), ("Pyro4.utils", "flame")}
                assert module not in {"Pyro4.core", "Pyro4.utils.flame"}, f"{name} imports {module}"
