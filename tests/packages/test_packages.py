"""Packages through the link, from a wheelhouse that is made here: no index is asked."""

from __future__ import annotations

import os
import socket
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import shell as command
from farside import FlameServer, Python, bare_pyro, pythons
from kernels import remote_flame
from notebook_shell import ipython
from ports import light
from wheelhouse import wheel

import flame
from flame_kernel.errors import FlameError
from flame_kernel.packages import closure, pip, tags
from flame_kernel.packages import install as packages

NEWEST = pythons()[-1]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Wheels: alpha needs beta always, gamma on Pythons before 3.11, delta never; and it has more than a module."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    files = {
        "alpha-1.0.dist-info/entry_points.txt": "[console_scripts]\nalpha-says = alpha_tool:main\n",
        "alpha_tool.py": "import beta\ndef main():\n    print('beta', beta.version)\n",
        "alpha-1.0.data/data/share/alpha/table.txt": "data of alpha",
        "alpha-1.0.data/scripts/alpha-old": "#!python\nimport sys\nprint(sys.version_info[0])\n",
    }
    requires = ("beta>=1", "gamma; python_version < '3.11'", "delta; sys_platform == 'nowhere'")
    wheel(folder, "alpha", requires=requires, files=files, more="epsilon")
    for name in ("beta", "gamma", "delta", "epsilon"):
        wheel(folder, name)
    wheel(folder, "gamma", "2.0")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The far user's home."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def far(home: Path) -> Iterator[Callable[..., FlameServer]]:
    """Starts servers of that user."""
    made: list[FlameServer] = []

    def start(python: Python = NEWEST, **env: str) -> FlameServer:
        made.append(FlameServer(python, env={"HOME": str(home), "XDG_DATA_HOME": None, **env}))
        return made[-1]

    yield start
    for server in made:
        server.stop()


def everything(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def found(house: Path) -> tuple[str, ...]:
    return ("--no-index", "-f", str(house))


@pytest.mark.parametrize("python", pythons(), ids=lambda one: one.name)
def test_on_each_python(python: Python, far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    server = far(python)
    before = everything(home)
    with light(server.location) as pi:
        done = pi.install("alpha[more]", *found(house), progress=False)
        old = pi.evaluate("__import__('sys').version_info < (3, 11)")
        expected = {"alpha": "1.0", "beta": "1.0", "epsilon": "1.0", **({"gamma": "2.0"} if old else {})}
        assert done.packages == expected
        assert pi.evaluate("__import__('alpha_tool').beta.where").startswith(str(home))
    with flame.connect(server.location) as pi:  # a new session, in a child
        assert pi.evaluate("__import__('beta').version") == "1.0"
        current = Path(done.folder) / "current"
        assert (current / "share" / "alpha" / "table.txt").read_text() == "data of alpha"
        run = "__import__('subprocess').check_output({!r}).decode()"
        assert pi.evaluate(run.format(["alpha-says"])) == "beta 1.0\n"
        assert pi.evaluate(run.format([str(current / "bin" / "alpha-old")])) == "3\n"
        assert packages.listed(pi.session) == expected
        assert pi.uninstall("epsilon") == ["epsilon"]
        assert "epsilon" not in packages.listed(pi.session)
        assert sorted(pi.uninstall()) == sorted(set(expected) - {"epsilon"})
        assert everything(home) == before


def test_a_state_is_there_as_a_whole_or_not_at_all(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    with light(far().location) as pi:
        pi.install("beta", *found(house), progress=False)
        kept = everything(home)
        wheel(house, "broken", spoilt=True)
        with pytest.raises(
            FlameError, match=r"broken\.py in broken-1\.0-py3-none-any\.whl is not what its RECORD says"
        ):
            pi.install("broken", *found(house), progress=False)
        wheel(house, "climbing", files={"../../climbed.py": "x"})
        with pytest.raises(FlameError, match="outside of it"):
            pi.install("climbing", *found(house), progress=False)
        assert packages.listed(pi.session) == {"beta": "1.0"}
        assert everything(home) == kept
        wheel(house, "beta", "2.0")
        assert pi.install("beta==2.0", *found(house), progress=False).packages == {"beta": "2.0"}
        assert pi.evaluate("__import__('importlib').import_module('beta').version") == "2.0"
        assert pi.install("beta", *found(house), progress=False).packages == {}


def test_what_the_host_has_is_used_or_said(far: Callable[..., FlameServer], tmp_path: Path, house: Path) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    with zipfile.ZipFile(wheel(tmp_path, "beta", "0.5")) as file:
        file.extractall(site)
    server = far(pythons()[-2], PYTHONPATH=os.pathsep.join([str(site), bare_pyro()]))
    with light(server.location) as pi:
        wheel(house, "easy", requires=("beta",))
        done = pi.install("easy", *found(house), progress=False)
        assert done.packages == {"easy": "1.0"}
        assert done.kept == {"beta": "0.5"}
        with pytest.raises(FlameError, match=r"has beta 0\.5 of its own, .* beta>=1 \(for alpha\) is wanted; --first"):
            pi.install("alpha", *found(house), progress=False)
        pi.install("alpha", *found(house), first=True, progress=False)
    with flame.connect(server.location) as pi:
        assert pi.evaluate("__import__('beta').version") == "1.0"


def test_a_suitable_version_of_the_host_is_left_unless_upgraded(
    far: Callable[..., FlameServer], tmp_path: Path, house: Path
) -> None:
    site = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel(house, "gamma")) as file:
        file.extractall(site)
    with light(far(pythons()[-2], PYTHONPATH=os.pathsep.join([str(site), bare_pyro()])).location) as pi:
        (tmp_path / "wanted.txt").write_text("gamma>=1\nbeta\n")
        done = pi.install("-r", str(tmp_path / "wanted.txt"), *found(house), progress=False)
        assert (done.packages, done.kept) == ({"beta": "1.0"}, {"gamma": "1.0"})
        with pytest.raises(FlameError, match="--first"):
            pi.install("-U", "gamma", *found(house), progress=False)


def test_two_sessions_at_once(far: Callable[..., FlameServer], house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, put, sent = far(), packages.transfer.Transfer.put, []

    def send(transfer: Any, paths: Any, inbox: str) -> Any:
        done = put(transfer, paths, inbox)
        sent.append(inbox)
        if len(sent) == 1:  # another one is done with the wheel that both have sent, and sends more
            os.unlink(inbox + os.path.basename(paths[0]))
            (Path(inbox) / "other-1.0-py3-none-any.whl").touch()
        return done

    monkeypatch.setattr(packages.transfer.Transfer, "put", send)
    with flame.connect(server.location, shell="mini") as before, light(server.location) as pi:
        assert pi.install("beta", *found(house), progress=False).packages == {"beta": "1.0"}
        assert len(sent) == 2
        assert os.listdir(sent[0]) == ["other-1.0-py3-none-any.whl"]
        # One that has run before there were any packages finds them when it asks for them.
        assert str(before.install("beta", *found(house))).endswith("has beta 1.0 already")
        assert before.evaluate("__import__('beta').version") == "1.0"


def test_in_a_session_that_runs(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    wheel(house, "beta", "2.0")
    wheel(house, "needsold", requires=("beta<2",), files={"needsold.pth": "import sys; sys.ran = True"})
    at = "[one.endswith('current/lib') for one in __import__('sys').path].index(True)"
    with light(far().location) as pi:
        done = pi.install("needsold", *found(house), progress=False)
        assert done.notes == ("needsold has a .pth file, which is not run there",)
        assert pi.evaluate("__import__('beta').version, hasattr(__import__('sys'), 'ran')") == ("1.0", False)
        last = pi.evaluate(at)
        done = pi.install("beta", *found(house), progress=False)
        assert str(done).splitlines()[1:] == [
            "Note: needsold 1.0, sent before, needs beta<2",
            "Note: beta was imported before; a new session imports what is there now",
        ]
        # --first works for what is there already, at once and from then on.
        assert str(pi.install("beta", *found(house), first=True)).endswith("has beta 2.0 already")
        assert pi.evaluate(at) < last
        pi.install("gamma", *found(house), progress=False)
        assert packages.facts(pi.session)["first"]
        with pytest.raises(FlameError, match="'gamma==1' is not the name of a package"):
            pi.uninstall("gamma==1")
        with pytest.raises(FlameError, match="x, y are not among"):
            pi.uninstall("x", "y")
        pi.uninstall()
        # What a stopped installation has left goes, too.
        packages._ask(pi.session, "begin")
        assert everything(home) != []
        assert pi.uninstall() == []
        assert everything(home) == []


def test_a_file_system_without_links(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    """As on Windows."""
    wheel(house, "beta", "2.0")
    with light(far().location) as pi:
        pi.execute("import os\ndef refused(*args): raise OSError(1, 'no links')\nos.symlink = os.link = refused")
        assert pi.install("alpha", *found(house), progress=False).packages == {"alpha": "1.0", "beta": "2.0"}
        (said,) = home.rglob("bin/alpha-says")
        assert subprocess.check_output([said], text=True) == "beta 2.0\n"
        assert pi.install("beta==1.0", "gamma", *found(house), progress=False).packages == {
            "beta": "1.0",
            "gamma": "2.0",
        }
        (path,) = [one for one in pi.evaluate("__import__('sys').path") if one.startswith(str(home))]
        assert Path(path, "alpha.py").exists()
        assert pi.evaluate("__import__('gamma').version, __import__('beta').version") == ("2.0", "1.0")
        pi.uninstall("beta")
        assert packages.listed(pi.session) == {"alpha": "1.0", "gamma": "2.0"}
        pi.uninstall()
        assert everything(home) == []


PROJECT = """
[build-system]
requires = []
build-backend = "back"
backend-path = ["."]
"""
BACKEND = """
import shutil
def build_wheel(folder, settings=None, metadata=None):
    shutil.copy({made!r}, folder)
    return "made-1.0-py3-none-any.whl"
"""


def test_a_folder_and_a_wheel_of_the_users_own(
    far: Callable[..., FlameServer], tmp_path: Path, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "made"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'back'\nbackend-path = ['.']\n"
    )
    (source / "back.py").write_text(BACKEND.format(made=str(wheel(source, "made"))))
    monkeypatch.chdir(source)
    with light(far().location) as pi:
        assert pi.install(".", *found(house), progress=False).packages == {"made": "1.0"}
        mine = wheel(tmp_path, "made", files={"made_too.py": "x = 1"})
        assert pi.install(str(mine), *found(house), progress=False).packages == {"made": "1.0"}  # another build of it
        assert pi.evaluate("__import__('made_too').x") == 1
        (source / "back.py").unlink()
        with pytest.raises(FlameError, match=r"^pip: [^\n]*$"):
            pi.install(str(source), *found(house))


def test_it_asks_before_the_first_write_only(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    asked: list[str] = []

    def consent(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    with light(far().location) as pi:
        words = ["beta", *found(house)]
        with pytest.raises(FlameError, match="nothing was written there"):
            packages.install(pi.session, words, consent=consent)
        assert everything(home) == []
        packages.install(pi.session, words, consent=consent, progress=False)
        packages.install(pi.session, ["epsilon", *found(house)], consent=consent, progress=False)
    assert len(asked) == 2
    assert str(home) in asked[0]


def test_what_cannot_be_installed_is_said(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    wheel(house, "elsewhere", tag="cp38-cp38-win_amd64")
    with light(far().location) as pi:
        for words, said in (
            (["elsewhere"], "there is no wheel of it for Python 3"),
            (["no-such-package"], "there is no wheel of it"),
            ([], "name a package"),
            (["--prefix", "/", "beta"], "--prefix cannot be used"),
            (["-r"], "needs a value"),
        ):
            with pytest.raises(FlameError, match=said):
                pi.install(*words, *(found(house) if words and words[0] != "-r" else ()), progress=False)
        assert everything(home) == []
        with pytest.raises(FlameError, match="no packages were sent"):
            pi.uninstall("beta")
        home.chmod(0o500)
        if os.getuid():
            with pytest.raises(FlameError, match="cannot be written to"):
                pi.install("beta", *found(house), progress=False)


FACTS: dict[str, Any] = {
    "version": [3, 12, 1], "implementation": "cpython", "abiflags": "", "free_threaded": False, "soabi": "", "bits": 64,
    "platform": "linux-x86_64", "libc": ["glibc", "2.31"], "mac": "", "prefix": "/home/x", "free": 10**9,
    "environment": {}, "host": {}, "ours": {}, "requires": {}, "exists": False, "begun": False, "first": False,
}  # fmt: skip


def test_tags_of_other_machines() -> None:
    def best(**other: Any) -> list[str]:
        return tags.platforms(tags.checked({**FACTS, **other}))

    assert best()[0] == "manylinux_2_31_x86_64"
    assert "manylinux2014_x86_64" in best()
    assert best()[-1] == "linux_x86_64"
    assert best(platform="linux-aarch64", libc=["musl", "1.2"])[0] == "musllinux_1_2_aarch64"
    assert best(platform="linux-aarch64")[-2:] == ["manylinux2014_aarch64", "linux_aarch64"]
    assert best(bits=32)[0] == "manylinux_2_31_i686"
    assert best(platform="win-amd64", libc=["", ""]) == ["win_amd64"]
    assert best(platform="macosx-11.0-arm64", mac="14.2", libc=["", ""])[0] == "macosx_14_0_arm64"
    assert "cp313t" in tags.options({**FACTS, "version": [3, 13, 0], "free_threaded": True})
    assert "pypy311_pp73" in tags.options(
        {**FACTS, "implementation": "pypy", "soabi": "pypy311-pp73-x86_64-linux-gnu", "version": [3, 11, 0]}
    )


@pytest.mark.parametrize(
    "lie",
    [
        {"version": ["3", 12, 0]}, {"version": None}, {"platform": "x=--index-url"}, {"libc": ["glibc", "$(x)"]},
        {"soabi": "a\nb"}, {"free": "much"}, {"bits": 8}, {"environment": []}, {"host": {"a": 1}},
        {"requires": {"a": "b"}}, {"requires": {"a": [1]}}, {"requires": []}, {"first": 1}, {"exists": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_far_side_that_lies_of_what_it_is(lie: dict[str, Any]) -> None:
    with pytest.raises(FlameError, match="did not say what it is"):
        tags.checked({**FACTS, **lie})


def test_markers_are_read_for_the_far_side() -> None:
    def entry(name: str, *requires: str, requested: bool = False) -> dict[str, Any]:
        return {"metadata": {"name": name, "version": "1.0", "requires_dist": requires}, "requested": requested}

    entries = [entry("A.b", "tomli; python_version < '3.11'", "win; os_name == 'nt'", requested=True), entry("win")]
    old = {"python_version": "3.8", "os_name": "posix"}
    wanted = closure.needed(entries, old, {}, {})
    assert wanted.names == ["a-b"]
    assert wanted.missing == ["tomli"]
    assert closure.needed(entries, old, {"tomli": "2.0"}, {}).missing == []
    assert closure.needed(entries, {**old, "os_name": "nt"}, {"tomli": "2.0"}, {}).names == ["a-b", "win"]


def test_pip_reads_markers_as_the_far_side_would(tmp_path: Path, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of the user's own requirements; and what only our Python would need is not looked for."""
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")  # is of installations here
    wheel(house, "both", requires=("no-such; python_version >= '3.9'", "gamma"))
    (house / "wanted.txt").write_text("both; python_version < '3.9'\ndelta; python_version > '3.8'\n")
    words, options = pip.split(["epsilon; python_version < '3.9'", f"-r{house / 'wanted.txt'}", *found(house)])
    runs = pip.Pip(options, [], {"python_version": "3.8"}, "Python 3.8", str(tmp_path), pip.Stop())
    entries = runs.resolve(words)
    assert sorted(one["metadata"]["name"] for one in entries) == ["both", "epsilon", "gamma"]


def test_extras_that_do_not_exist_and_what_breaks_others() -> None:
    entry = {"metadata": {"name": "a", "version": "2", "provides_extra": ["b"]}, "requested": True}
    wanted = closure.needed([{**entry, "requested_extras": ["b", "nothing"]}], {}, {}, {"a": "2"})
    assert (wanted.names, wanted.sent, wanted.extras) == ([], {"a": "2"}, ["a has no extra nothing"])
    assert closure.needed([{**entry, "is_direct": True}], {}, {}, {"a": "2"}).names == ["a"]  # a file of the user's
    requires = {"old": ["a<2", "x; extra == 'more'"], "new": ["a>=1"], "a": ["old<1"]}
    said = closure.broken(requires, {}, {"old": "1.0", "new": "1.0", "a": "2"}, {"a"})
    assert said == ["old 1.0, sent before, needs a<2"]


def test_what_pip_says_is_told_whole() -> None:
    said = pip._why("WARNING: x\nERROR: These do not:\n    beta --hash=sha256:1\n    gamma\nnotice\nERROR: end\n", "")
    assert said == "pip: These do not: beta --hash=sha256:1 gamma; end"
    other = pip._why("ERROR: (from versions: 1.0, 2.0)\nERROR: No matching distribution found for beta<1\n", "Python 3")
    assert other.endswith("(from versions: 1.0, 2.0); No matching distribution found for beta<1; "
                          "those are the versions that have a wheel for Python 3")  # fmt: skip
    drawn = pip._why("error: failed\n\n× Failed to connect to x\n╰─> [Errno 111] Connection refused\n\nhint: so", "")
    assert drawn == "pip: Failed to connect to x; [Errno 111] Connection refused"


def test_words_for_pip() -> None:
    words = ["-U", "-qq", "--progress-bar", "off", "-crules.txt", "--prefer-binary", "a", "-r", "~/wanted.txt"]
    home = os.path.expanduser("~/wanted.txt")
    assert pip.split(words) == (["a"], ["-c", "rules.txt", "--prefer-binary", "-r", home])
    assert pip.upgrades(words)
    wrong: Any
    for wrong, said in (
        (["-e", "."], "%flame hot FOLDER"),
        (["--user", "a"], "a folder of their own"),
        ([["a"]], r"\['a'\] is no requirement"),
        ([b"a"], "b'a' is no requirement"),
        (["a", " "], "' ' is no requirement"),
        (["a\0b"], "is no requirement"),
    ):
        with pytest.raises(FlameError, match=said):
            pip.split(wrong)
    assert pip.split(["a", "--index-url=http://x", "b", "-c", "file"]) == (
        ["a", "b"],
        ["--index-url", "http://x", "-c", "file"],
    )


# -- as users ask for it ----------------------------------------------------------------------------------------------


def test_in_the_kernel(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    server = far()
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        run = k.submit(f"%flame pip install alpha --no-index -f {house}")
        k.wait_for(lambda: run.of_type("input_request"), "it asks")
        assert "Write" in run.prompts[0][0]
        k.client.input("y")
        k.wait(run, 60)
        assert "installed at" in run.stdout, run
        assert k.execute("import beta; beta.version").result == "'1.0'"
        assert "alpha 1.0" in k.execute("%flame pip list").stdout
        assert "removed from" in k.execute("%flame pip uninstall --all").stdout
        with socket.create_server(("127.0.0.1", 0)) as index:  # one that never answers
            index.settimeout(30)
            run = k.submit(
                f"%flame pip install beta -i http://127.0.0.1:{index.getsockname()[1]}/ --proxy= --timeout 99"
            )
            asking = index.accept()[0]
            k.manager.interrupt_kernel()
            k.wait(run)
            assert "stopped" in run.traceback
            asking.settimeout(30)
            while asking.recv(1 << 16):  # until pip has ended
                pass
            asking.close()
        assert "is for the magics" in k.execute("%flame pip -t pi list").traceback
        assert everything(home) == [] or all(".ipython" in one or ".cache" in one for one in everything(home))


def test_by_the_magics_and_in_the_shell(far: Callable[..., FlameServer], tmp_path: Path, house: Path) -> None:
    server = far()
    with ipython(tmp_path) as shell:
        shell.ok(f"%flame connect {server.location} --as pi")
        assert "installed at" in shell.ok(f"%flame pip install -y beta --no-index -f {house}").out
        assert shell.ok("%flame eval __import__('beta').version").value == "1.0"
    where = server.location
    done = command.flame("pip", "-t", where, "install", "epsilon", "--no-index", "-f", house)
    assert (done.code, "installed at" in done.out) == (0, True), done
    assert command.flame("pip", "-t", where, "list").out == "beta 1.0\nepsilon 1.0\n"
    assert command.flame("pip", "-t", where, "uninstall", "nothing").code == 1
    assert command.flame("pip", "-t", where, "uninstall", "--all").code == 0


@pytest.mark.timeout(200)  # each install is a pip of its own
def test_on_a_group(
    far: Callable[..., FlameServer], tmp_path: Path, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "targets.toml"
    saved.touch(mode=0o600)
    homes = [tmp_path / name for name in ("one", "two")]
    text = '[groups.web]\nmembers = ["web*"]\n[groups.some]\nmembers = ["web*", "dead"]\n'
    for number, home in enumerate(homes, 1):
        home.mkdir()
        text += f'[targets.web{number}]\nlocation = "{far(HOME=str(home)).location}"\n'
    saved.write_text(text + '[targets.dead]\nlocation = "127.0.0.1:9"\n')
    monkeypatch.setenv("FLAME_CONFIG", str(saved))
    with ipython(tmp_path) as shell:
        said = shell.ok(f"%flame pip -t web install -y beta --no-index -f {house}").out
        assert "web1: " in said
        assert "web2: " in said
        assert said.count("installed at") == 2
        failed = shell.run("%flame pip -t some list")
        assert "web1: beta 1.0\nweb2: beta 1.0\n" in failed.out
        assert str(failed.error).startswith("dead: ")
        assert shell.ok("%flame pip -t web uninstall --all").out.count("removed from") == 2
    words = ("install", "-y", "epsilon", "--no-index", "-f", house)
    done = command.flame("pip", "-t", "some", *words, FLAME_CONFIG=str(saved))
    assert done.code == 1
    assert (done.out.count("installed at"), "dead: " in done.err) == (2, True)
    with remote_flame(env={"FLAME_CONFIG": str(saved), "FLAME_TARGET": "web"}) as k:
        assert "web1: epsilon 1.0\nweb2: epsilon 1.0\n" in k.execute("%flame pip list").stdout
        assert k.execute("%flame pip uninstall --all").stdout.count("removed from") == 2
