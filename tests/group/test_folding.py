"""Equal outputs told once: blocks, differences, masks, and hosts in few words."""

from __future__ import annotations

import pytest

from flame_kernel.group.folding import difference, fold, names, settled, told


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (["web1", "web2", "web3"], "web[1-3]"),
        (["web1", "web2"], "web1, web2"),
        (["web1", "web2", "web3", "web7", "web9"], "web[1-3,7,9]"),
        (["db", "web3", "web1", "web2"], "db, web[1-3]"),
        (["web01", "web02", "web03"], "web0[1-3]"),
        (["rack1-a", "rack2-a", "rack3-a", "rack1-b"], "rack[1-3]-a, rack1-b"),
        (["a:1", "a:2", "a:3"], "a:1, a:2, a:3"),
        (["a:99/1", "a:99/2", "a:99/3", "b:9/1"], "a:99/[1-3], b:9/1"),
        ([f"h{letter}" for letter in "abcdefghijkl"], "ha, hb, hc, hd, he, hf, hg, hh and 4 more"),
    ],
)
def test_hosts_in_few_words(hosts: list[str], words: str) -> None:
    assert names(hosts) == words


def test_no_host_is_left_out_where_all_are_wanted() -> None:
    hosts = [f"h{letter}" for letter in "abcdefghijkl"]
    assert names(hosts, None) == ", ".join(hosts)


def test_the_largest_share_comes_first() -> None:
    blocks = fold({"a": "x", "b": "y", "c": "y", "d": "z"})
    assert [(block.text, block.hosts) for block in blocks] == [("y", ("b", "c")), ("x", ("a",)), ("z", ("d",))]


def test_numbers_are_masked_where_it_is_wanted_and_that_is_said() -> None:
    texts = {"a": "pid 12 at 0x7f10, 10:20:30", "b": "pid 99 at 0xabc, 11:00:01", "c": "no pid"}
    assert len(fold(texts)) == 3
    blocks = fold(texts, mask=True)
    assert [(block.hosts, block.alike) for block in blocks] == [(("a", "b"), True), (("c",), False)]
    assert "2 of 3 hosts: a, b (numbers differ)" in told(texts, mask=True)


def test_the_others_are_told_as_differences() -> None:
    base = "\n".join(f"line {number}" for number in range(20))
    texts = dict.fromkeys(("a", "b", "c"), base) | {"d": base.replace("line 7", "LINE 7")}
    text = told(texts)
    assert "3 of 4 hosts: a, b, c" in text
    assert "-line 7\n+LINE 7" in text
    assert text.count("line 3") == 1
    assert "LINE 7" in told(texts, diff=False)
    assert told(texts, diff=False).count("line 3") == 2


def test_a_text_that_has_nothing_in_common_is_told_whole() -> None:
    assert difference("x\ny", "a\nb\nc") == "x\ny"


def test_what_says_nothing_is_named_last() -> None:
    assert told({"a": "x", "b": "", "c": "x"}).endswith("── no output: b")
    assert told({"a": "", "b": ""}) == ""


def test_long_texts_are_not_compared_line_by_line() -> None:
    base = "\n".join(f"line {number}" for number in range(9000))
    other = "\n".join(f"LINE {number}" for number in range(9000))
    assert difference(other, base) == other
    assert "-line 4000" in difference(base.replace("line 4000\n", ""), base).splitlines()


def test_a_difference_of_long_texts_whose_lines_repeat() -> None:
    lines = [str(number % 111) for number in range(100_000)]
    base, other = "\n".join(lines), "\n".join([*lines[:49_950], "odd", *lines[49_951:]])
    assert difference(other, base).split("\n") == [" 110", "-0", "+odd", " 1"]


def test_lines_that_look_like_a_diffs_own_are_shown() -> None:
    base = "a\n--- b\nc\nd\ne\nf"
    assert difference("a\nc\nd\ne\nf", base).split("\n") == [" a", "---- b", " c"]
    assert difference(base.replace("--- b", "++ b"), base).split("\n") == [" a", "---- b", "+++ b", " c"]


def test_of_a_line_that_is_written_again_the_last_form_stays() -> None:
    assert settled("  0%\r 50%\r100%\nend\r\n") == "100%\nend\n"
    assert "100%" in told({"a": " 0%\r100%", "b": "50%\r100%"})
    assert "all 2 hosts" in told({"a": " 0%\r100%", "b": "50%\r100%"})
