"""Keys that somebody has chosen to collide: the hashes of numbers are public, and making a dict of such keys would take
for ever. Both sides import it."""

from .scalars import BadValue

# Most keys of one dict or set with the same hash: each is compared with all the others.
MAX_COLLISIONS = 64
# The first few collisions are free; beyond them, tuples count as many values as a comparison looks at.
FREE_COLLISIONS = 4


def checked(keys, count):
    """``keys``, after checking that a dict or set of them can be made in reasonable time; ``count`` is told of what
    comparing them costs."""
    counts = {}
    for key in keys:
        if type(key) is not str and type(key) is not bytes:  # the hashes of str and bytes are seeded with a secret
            known = hash(key)
            counts[known] = again = counts.get(known, 0) + 1
            if again > MAX_COLLISIONS:
                raise BadValue("keys that collide")
            if again > FREE_COLLISIONS and type(key) in (tuple, frozenset):
                count(again * _visits(key, {}))
    return keys


def _visits(key, known):
    """How many values are compared between ``key`` and an equal key; nested tuples count each time."""
    if type(key) not in (tuple, frozenset):
        return 1
    found = known.get(id(key))
    if found is None:
        found = known[id(key)] = 1 + sum(_visits(one, known) for one in key)
    return found
