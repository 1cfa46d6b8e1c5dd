"""Seals: the hash that both sides agree on, and what a seal tells apart."""

from __future__ import annotations

import subprocess

import pytest
from farside import Python

from flame_kernel.agent.wire import seals

KEY = bytes(range(64))


@pytest.mark.parametrize("name", ["sha256", "blake2b"])
def test_a_seal_is_of_its_hash_key_number_and_bytes(name: str) -> None:
    other = {"sha256": "blake2b", "blake2b": "sha256"}[name]
    ours, theirs, third, foreign = (
        seals.Seal(*each) for each in ((name, KEY), (name, KEY), (other, KEY), (name, KEY[1:]))
    )
    first = ours(b"ab", b"c")
    assert len(first) == seals.SIZE
    assert first == theirs(b"abc")
    assert ours(b"abc") == theirs(b"abc") != first  # the second chunk has another number
    assert first not in (third(b"abc"), foreign(b"abc"))


def test_the_hash_that_is_quickest_for_the_slower_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "speeds", lambda: {"sha256": 1800, "blake2b": 1000})
    assert seals.fastest({"sha256": 1700, "blake2b": 900}) == "sha256"
    assert seals.fastest({"sha256": 300, "blake2b": 600}) == "blake2b"
    for nonsense in ({}, {"md5": 10**9}, {"sha256": 0, "blake2b": 0}):
        assert seals.fastest(nonsense) in ("sha256", "blake2b")
    with pytest.raises(KeyError):
        seals.Seal("md5", KEY)


def test_every_python_makes_the_same_seals(each_python: Python) -> None:
    code = f"""if 1:
        import sys; sys.path.insert(0, {str(seals.__file__).rpartition("/")[0]!r})
        import seals
        for name in ("sha256", "blake2b"):
            print(seals.Seal(name, bytes(range(64)))(b"chunk").hex())
        print(sorted(seals.speeds()), min(seals.speeds().values()) > 0)"""
    told = subprocess.run([str(each_python.path), "-c", code], check=True, capture_output=True, text=True).stdout
    here = [seals.Seal(name, KEY)(b"chunk").hex() for name in ("sha256", "blake2b")]
    assert told.splitlines() == [*here, "['blake2b', 'sha256'] True"]
