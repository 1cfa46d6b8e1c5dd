"""``%flame hot`` in the kernel and with the magics, and ``jupyter flame run --hot``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import shell
from farside import FlameServer, LiveApp
from kernels import Kernel, remote_flame

Edit = Callable[[Path, str, str], None]


@pytest.fixture(scope="module")
def kernel(server: FlameServer) -> Iterator[Kernel]:
    with remote_flame(env={"FLAME_TARGET": server.location}) as one:
        one.execute("1")  # its session is there
        yield one


def test_the_kernel_serves_a_folder_reloads_it_and_forgets_it(kernel: Kernel, project: Path, edit: Edit) -> None:
    assert kernel.execute("%flame hot").stdout == "nothing is served there; %flame hot src serves the folder src\n"
    begun = kernel.execute(f"%flame hot {project} --reload\nimport shop; cart = shop.Cart(); cart.total()")
    assert "5 modules and 1 data file of" in begun.stdout
    assert "shop/server.key is left out: it looks like a secret" in begun.stdout
    assert begun.result == "6"
    edit(project / "shop/cart.py", "* 2", "* 5")
    assert kernel.execute("cart.total()").result == "15"
    edit(project / "shop/cart.py", "* 5", "* (5")
    broken = kernel.execute("cart.total()")
    assert (broken.result, "shop.cart was edited but is not reloaded" in broken.stderr) == ("15", True)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", kernel.execute("shop.cart.fail()").traceback)
    assert "return 1 // 0" in shown
    assert "hot/shop/cart.py" in shown
    listed = kernel.execute("%flame hot").stdout
    assert "  shop.cart  " in listed
    assert "loaded 2 times" in listed
    assert "is not reloaded" in listed
    assert "modules forgotten" in kernel.execute("%flame hot --off").stdout
    assert kernel.execute("import sys; any(name.startswith('shop') for name in sys.modules)").result == "False"
    assert "name the folder" in str(kernel.execute("%flame hot --reload").error)


def test_a_read_only_server_takes_no_hot_code(server: FlameServer, project: Path, tmp_path: Path) -> None:
    import flame
    from flame_kernel.errors import FlameError

    file = tmp_path / "targets.toml"
    file.write_text(f'[targets.prod]\nlocation = "{server.location}"\n[targets.prod.rails]\nread_only = true\n')
    with flame.connect("prod", config=str(file), shell="mini") as pi, pytest.raises(FlameError, match="is read_only"):
        pi.hot(project)


def test_a_script_runs_with_a_folder_served(server: FlameServer, project: Path, tmp_path: Path) -> None:
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text("import shop\nprint(shop.Cart().total())\n")
    done = shell.flame("run", "-t", server.location, "--hot", project, script)
    assert (done.out, done.code) == ("6\n", 0), done.err
    refused = shell.flame("run", "-t", server.location, "--hot", project, tmp_path / "x.ipynb")
    assert "--hot is for a script on one server" in refused.err


def test_hotfix_on_the_command_line(live_app: Callable[..., LiveApp], tmp_path: Path) -> None:
    import flame

    app = live_app()
    folder = Path(__file__).parents[1] / "apps"
    command = ("hotfix", "-t", app.location)
    with flame.connect(app.location, shell="mini") as pi:
        pi.execute(f"import sys; sys.path.insert(0, {str(folder)!r}); import fixed_app")
        told = shell.flame(*command, "fixed_app.Thing.sm")
        assert told.out == '@staticmethod\ndef sm():\n    return "old"\n', told.err
        text = tmp_path / "sm.py"
        text.write_text(told.out.replace("old", "new"))
        nameless = shell.flame(*command, "fixed_app.Thing.sm", text)
        assert (
            nameless.err
            == "jupyter flame hotfix: a fix belongs to a session and ends with it; name one, such as --session fix\n"
        )
        named = (*command, "--session", "fix")
        done = shell.flame(*named, "fixed_app.Thing.sm", text)
        assert "fixed_app.Thing.sm runs the new code from its next call on" in done.out, done.err
        assert pi.evaluate("fixed_app.Thing.sm()") == "new"
        assert shell.flame(*command).out.count("fixed_app.Thing.sm") == 1
        assert (
            "the new parameter x needs a default"
            in shell.flame(*(*named, "fixed_app.Thing.sm", "-"), stdin="@staticmethod\ndef sm(x):\n    pass").err
        )
        assert shell.flame(*named, "--undo").out.endswith("has its old code\n")
        assert shell.flame(*named, "--undo").out == "this session has fixed nothing there\n"
        assert pi.evaluate("fixed_app.Thing.sm()") == "old"
        assert "no module nowhere is loaded there" in shell.flame(*command, "nowhere.f").err
        assert "cannot read none.py" in shell.flame(*named, "fixed_app.Thing.sm", "none.py").err
        pi.execute("sys.modules.pop('fixed_app'); del sys.path[0]")
        flame.connect(app.location, session="fix").close()


def test_a_kernel_on_a_group(server: FlameServer, project: Path, tmp_path: Path) -> None:
    file = tmp_path / "targets.toml"
    file.write_text(f'[targets.web]\nlocation = "{server.location}"\nshell = "mini"\n')
    file.chmod(0o600)
    with remote_flame(env={"FLAME_CONFIG": str(file)}) as one:
        one.execute("%flame connect web*2")
        served = one.execute(f"%flame hot {project}")
        assert "all 2 hosts: web/1, web/2" in served.stdout, served
        assert "[web/2] 6\n" in one.execute("import shop; shop.Cart().total()").stdout
        offered = one.execute("%flame hotfix shop.prices.price")
        assert offered.reply is not None
        (payload,) = offered.reply["payload"]
        assert payload["text"] == "%%flame hotfix shop.prices.price\ndef price(name):\n    return 3\n"
        done = one.execute(payload["text"].replace("3", "5"))
        assert "shop.prices.price runs the new code" in done.stdout, done
        assert "[web/1] 10\n" in one.execute("shop.Cart().total()").stdout
        assert "has its old code" in one.execute("%flame hotfix --undo").stdout
        assert "[web/1] 6\n" in one.execute("shop.Cart().total()").stdout
        assert "no module nowhere is loaded there" in str(one.execute("%flame hotfix nowhere.f").error)
        assert "forgotten" in one.execute("%flame hot --off").stdout


def test_a_group_in_the_library(server: FlameServer, project: Path) -> None:
    import flame

    with flame.group([flame.connect(server.location, shell="mini", session=name) for name in ("one", "two")]) as both:
        served = both.hot(project)
        both.execute("import shop")
        fixes = both.hotfix("shop.prices.price", "def price(name):\n    return 5")
        assert list(both.evaluate("shop.Cart().total()").values()) == [10, 10]
        for fix in fixes.values():
            fix.undo()
        assert list(both.evaluate("shop.Cart().total()").values()) == [6, 6]
        for hot in served.values():
            hot.close()
        for remote in both:
            remote.close()
