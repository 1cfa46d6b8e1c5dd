"""Hot code and a hotfix on the Pythons that no version manager brings, on PyPy, and on the main thread of a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import farside
import pytest
from farside import FlameServer, LiveApp, Python
from notebook_shell import ipython

import flame
from flame_kernel.errors import FlameError

Edit = Callable[[Path, str, str], None]
APPS = Path(__file__).parents[1] / "apps"
KNOWN = {python.name for python in farside.pythons()}
NEWER = [python for python in farside.every_python() if python.name not in KNOWN]
SITES = [
    *((farside.pythons()[-1], "main"), (farside.pythons()[0], "main")),
    *((python, place) for python, place in zip(NEWER, ("child", "process"), strict=False)),
    *((python, place) for python in [farside.pypy()] if python for place in ("main", "process")),
]


@pytest.mark.parametrize(("python", "place"), SITES, ids=lambda one: str(one))
def test_a_project_is_served_reloaded_fixed_and_forgotten(
    python: Python, place: str, project: Path, edit: Edit
) -> None:
    kind = LiveApp if place == "process" else FlameServer
    told: list[str] = []
    with (
        farside.stopped(kind(python)) as server,
        flame.connect(server.location, shell="mini", place=place) as pi,
    ):
        pi.write = lambda name, text: told.append(text)
        pi.execute(f"import sys; sys.path.insert(0, {str(APPS)!r}); import fixed_app as app, inspect")
        before = pi.evaluate("(len(sys.meta_path), len(sys.path_hooks))")
        with pi.hot(project, reload=True):
            pi.execute("import shop, loose.part.leaf; from shop.prices import price; cart = shop.Cart()")
            assert pi.evaluate("(cart.total(), loose.part.leaf.VALUE)") == (6, "leaf")
            assert "price('tea') * 2" in pi.evaluate("inspect.getsource(shop.Cart)")
            assert pi.evaluate("__import__('pkgutil').get_data('shop', 'data/table.csv')") == b"a,b\n"
            edit(project / "shop/prices.py", "return 3", "return 10")
            edit(project / "shop/cart.py", "* 2", "* 5")
            assert pi.evaluate("(cart.total(), price('tea'))") == (50, 10)
            edit(project / "shop/prices.py", "return 10", "return (10")
            assert pi.evaluate("price('tea')") == 10
            assert "shop.prices was edited but is not reloaded: " in "".join(told)
            with pi.hotfix("shop.prices.price", "def price(name):\n    return 7"):
                assert pi.evaluate("cart.total()") == 35
            assert pi.evaluate("cart.total()") == 50
        with pi.hotfix("fixed_app.Thing.who", "def who(self):\n    return 'new ' + super().who()"):
            assert "new" in pi.evaluate("app.routes['who']()")
        assert "new" not in pi.evaluate("app.routes['who']()")
        with pytest.raises(FlameError, match="the new parameter x needs a default"):
            pi.hotfix("fixed_app.Thing.sm", "@staticmethod\ndef sm(x):\n    pass")
        with pytest.raises(ModuleNotFoundError):
            pi.execute("import shop")
        assert pi.evaluate("(len(sys.meta_path), len(sys.path_hooks))") == before
        pi.execute("sys.modules.pop('fixed_app'); del sys.path[0]")


def test_a_group_in_the_magics(
    server: FlameServer, project: Path, tmp_path: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "targets.toml"
    file.write_text(f'[targets.web]\nlocation = "{server.location}"\nshell = "mini"\n')
    file.chmod(0o600)
    monkeypatch.setenv("FLAME_CONFIG", str(file))
    with ipython(tmp_path) as shell:
        shell.ok("%flame connect web*2")
        assert "all 2 hosts: web/1, web/2" in shell.ok(f"%flame hot {project} --reload").out
        assert "[web/2] 6\n" in shell.ok("%%flame\nimport shop; shop.Cart().total()").out
        edit(project / "shop/prices.py", "return 3", "return 4")
        assert "[web/1] 8\n" in shell.ok("%%flame\nshop.Cart().total()").out
        done = shell.ok("%%flame hotfix shop.prices.price\ndef price(name):\n    return 5")
        assert "shop.prices.price runs the new code" in done.out
        assert "[web/2] 10\n" in shell.ok("%%flame\nshop.Cart().total()").out
        assert "has its old code" in shell.ok("%flame hotfix --undo").out
        assert "[web/1] 8\n" in shell.ok("%%flame\nshop.Cart().total()").out
        assert "no module nowhere is loaded there" in shell.run("%flame hotfix nowhere.f").text
        assert "forgotten" in shell.ok("%flame hot --off").out
        assert "2 hosts" in shell.ok("%flame profile --all --idle --seconds 0.2").out
        assert "── web/1 ──" in shell.ok("%flame top -t web*2").out
        assert "no cell runs" in shell.ok("%flame where").out
        refused = shell.run("%flame memory --types").text
        assert "%flame memory is for one host, and web*2 is a group; connect to one of its hosts" in refused
        assert "a live view is for one host" in shell.run("%flame where --every 1").text


def test_a_read_only_group_takes_no_hot_code_in_the_magics(
    server: FlameServer, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "targets.toml"
    rails = '[targets.web.rails]\nread_only = true\nlog = "noted"\n'
    file.write_text(f'[targets.web]\nlocation = "{server.location}"\nshell = "mini"\n{rails}')
    file.chmod(0o600)
    monkeypatch.setenv("FLAME_CONFIG", str(file))
    with ipython(tmp_path) as shell:
        assert "is read_only, and %flame hot writes" in shell.run(f"%flame hot {project} -t web*2").text
        assert "is read_only, and %flame hotfix writes" in shell.run("%%flame hotfix -t web*2 a.b\ndef b(): pass").text
        shell.ok("%flame connect web*2")
        shell.ok("%%flame\n6 * 7")
        assert "6 * 7" in shell.ok("%flame audit").out
