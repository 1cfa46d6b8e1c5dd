"""Seals: keyed hashes of what crosses a connection outside Pyro's messages, and hashes of files. Both sides import it.

Which hash is faster depends on the processor and on how Python was built: with instructions for SHA-256, HMAC-SHA256
takes half the time of BLAKE2b, and without them twice. So each side measures, and the client chooses.
"""

import functools
import hashlib
import hmac
import struct
import time

# Bytes of a seal.
SIZE = 32
_NUMBER = struct.Struct(">Q")
# How many bytes are hashed in a measurement, and how often; the fastest time counts.
_SAMPLE, _TIMES = 1 << 17, 3


def _sha256(key):
    return hmac.new(key, digestmod="sha256")


def _blake2b(key):
    return hashlib.blake2b(key=key, digest_size=SIZE)


def unkeyed(name):
    """A hash without a key, of SIZE bytes, for telling whether two files are the same. KeyError for another name."""
    return {"sha256": hashlib.sha256, "blake2b": functools.partial(hashlib.blake2b, digest_size=SIZE)}[name]()


_BEGUN = {"sha256": _sha256, "blake2b": _blake2b}
# The hash where nothing was chosen.
USUAL = "blake2b"


class Seal:
    """Signs the chunks of one direction of one connection, by their numbers. KeyError if ``name`` is not of a hash."""

    def __init__(self, name, key):
        # A key for this hash only: sides that do not use the same one do not understand each other.
        self._begun = _BEGUN[name](hashlib.blake2b(name.encode("ascii"), key=key).digest())
        self._number = 0

    def __call__(self, *parts):
        """The seal of the next chunk, which may be in parts."""
        total = self._begun.copy()
        total.update(_NUMBER.pack(self._number))
        for part in parts:
            total.update(part)
        self._number += 1
        return total.digest()


@functools.lru_cache(maxsize=1)
def speeds():
    """How fast each hash is here, in MiB a second, by its name; measured once."""
    sample, found = bytes(_SAMPLE), {}
    for name in _BEGUN:
        seconds = []
        for _ in range(_TIMES):
            began = time.perf_counter()
            Seal(name, b"key")(sample)
            seconds.append(time.perf_counter() - began)
        found[name] = int(_SAMPLE / (1 << 20) / max(min(seconds), 1e-6))
    return found


def fastest(theirs):
    """The hash with the best speed on the slower of the two sides; ``theirs`` is the other side's ``speeds()``."""
    return max(speeds(), key=lambda name: min(speeds()[name], theirs.get(name, 0)))
