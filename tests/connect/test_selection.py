"""Which servers a selection means: names, patterns, groups, slices, copies, exceptions; and each mistake in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from flame_kernel.connect.selection import is_group, select
from flame_kernel.connect.target import load_target
from flame_kernel.connect.targets_file import TargetsFile
from flame_kernel.errors import TargetError

FILE = """
default_group = "web"

[targets.web1]
location = "web1:9999"
[targets.web2]
location = "web2:9999"
[targets.pi-1]
location = "ssh://me@pi-1/9999"
[targets.pi-2]
location = "ssh://me@pi-2/9999"
[targets.furnace]
location = "furnace:9999"

[groups.web]
members = ["web1", "web2"]
[groups.racks]
members = ["pi-*", "@web", "-pi-2"]
[groups.round]
members = ["@about"]
[groups.about]
members = ["@round"]
[groups.gone]
members = ["db*"]
[groups.twice]
members = ["web1", "web1"]
[groups.strange]
members = ["web1", "web9"]
[groups.stranger]
members = ["@web9"]
[groups.empty]
members = []
[groups.hollow]
members = ["web1", "@empty"]
[groups.outer]
members = ["web1", "@round"]
[groups.over]
members = ["@web", "web1", "furnace"]
[groups.same]
members = ["web1", "web1:9999"]
"""


@pytest.fixture
def file(tmp_path: Path) -> TargetsFile:
    path = tmp_path / "targets.toml"
    path.touch(mode=0o600)
    path.write_text(FILE)
    return TargetsFile(path)


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ("web", "web1 web2"),
        ("@web", "web1 web2"),
        ("web1,furnace", "web1 furnace"),
        ("web1, web1", "web1"),
        ("racks", "pi-1 web1 web2"),
        ("over", "web1 web2 furnace"),
        ("racks[0]", "pi-1"),
        ("racks[-1]", "web2"),
        ("racks[1:3]", "web1 web2"),
        ("racks[::2]", "pi-1 web2"),
        ("web,-web2", "web1"),
        ("-web2", "web1 pi-1 pi-2 furnace"),
        ("all,-@web", "pi-1 pi-2 furnace"),
        ("pi-*", "pi-1 pi-2"),
        ("[fp]*", "pi-1 pi-2 furnace"),
        ("furnace*3", "furnace/1 furnace/2 furnace/3"),
        ("web,[fp]*,-pi-2", "web1 web2 pi-1 furnace"),
        ("lab:9999,lab:9998", "lab:9999 lab:9998"),
        ("lab:9999*2", "lab:9999/1 lab:9999/2"),
        ("[::1]:9999,web1", "[::1]:9999 web1"),
    ],
)
def test_what_is_chosen(file: TargetsFile, words: str, labels: str) -> None:
    assert [one.label for one in select(words, file)] == labels.split()


def test_a_list_of_words(file: TargetsFile) -> None:
    assert [one.label for one in select(["web", "furnace", "-web1"], file)] == ["web2", "furnace"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("web3", "there is no target or group 'web3'"),
        ("@furnace", "there is no group 'furnace'"),
        ("", "no target is named"),
        ("web,-web", "nothing is left of web, -web"),
        ("web1,-web2", "-web2 takes out web2, which was not chosen before it"),
        ("db*", "the pattern db\\* matches no target"),
        ("gone", "group gone: the pattern db\\* matches no target"),
        ("round", "is a member of itself \\(round → about → round\\)"),
        ("outer", "is a member of itself \\(round → about → round\\)"),
        ("strange", "group strange: there is no target or group 'web9'"),
        ("stranger", "group stranger: there is no group 'web9'"),
        ("empty", "group empty in .* is empty"),
        ("hollow", "group hollow: group empty in .* is empty"),
        ("same", "web1 and web1:9999 are the same server, web1:9999"),
        ("twice", "group twice names web1 twice"),
        ("web[2]", "group web has 2 members, and none with the number 2"),
        ("web[5:]", "web\\[5:\\] selects no member"),
        ("web[::0]", "has a step of 0"),
        ("furnace*0", "not a number of sessions"),
        ("furnace,furnace:9999", "furnace and furnace:9999 are the same server"),
        ("web1:x", "."),
    ],
)
def test_what_cannot_be_chosen(file: TargetsFile, words: str, said: str) -> None:
    with pytest.raises(TargetError, match=said) as raised:
        select(words, file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("words", ["web", "web1,web2", "all", "pi-*", "furnace*2", "web[0]", "-web1", "@web"])
def test_a_group_is_known_as_one(file: TargetsFile, words: str) -> None:
    assert is_group(words, file)


@pytest.mark.parametrize("words", ["web1", "furnace", "lab:9999", "[::1]:9999", "ssh://me@pi/9999", "nobody"])
def test_one_server_is_no_group(file: TargetsFile, words: str) -> None:
    assert not is_group(words, file)


def test_groups_are_edited_and_comments_stay(file: TargetsFile) -> None:
    file.path.write_text(FILE + "# the end\n")
    file.set_group("night", ["furnace", "pi-*"])
    file.set_default_group("night")
    again = TargetsFile(file.path)
    assert again.groups["night"] == ["furnace", "pi-*"]
    assert again.default_group == "night"
    assert [one.label for one in select("night", again)] == ["furnace", "pi-1", "pi-2"]
    again.remove_group("night")
    last = TargetsFile(file.path)
    assert "night" not in last.groups
    assert last.default_group is None
    assert "# the end" in file.path.read_text()
    assert last.tables.keys() == file.tables.keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[groups.web]\nmembers = 3", "has no members"),
        ('[groups.web]\nmembers = ["a"]\nkey = "x"', "has one setting"),
        ('[groups.all]\nmembers = ["a"]', "no usable name"),
        ('[groups."a b"]\nmembers = ["a"]', "no usable name"),
        ('[targets.web]\nlocation = "a:1"\n[groups.web]\nmembers = ["web"]', "is a target and a group"),
        ('default_group = "x"', "is not one of its groups"),
        ("groups = 3", "groups in .* is not a table"),
    ],
)
def test_a_file_with_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(text)
    with pytest.raises(TargetError, match=said):
        TargetsFile(path)


def test_an_empty_group_is_a_mistake_where_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    path.write_text('[targets.lab]\nlocation = "lab:9999"\n[groups.web]\nmembers = []\n')
    file = TargetsFile(path)
    assert [one.label for one in select("lab", file)] == ["lab"]
    with pytest.raises(TargetError, match=r"group web in .* is empty; name a target in its members"):
        select("web", file)


def test_a_group_where_one_server_is_wanted(file: TargetsFile) -> None:
    with pytest.raises(TargetError, match="web is a group of servers, and one is wanted here; name one of "):
        load_target("web", environ={"FLAME_CONFIG": str(file.path)})
