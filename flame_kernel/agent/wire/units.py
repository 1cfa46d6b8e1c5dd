"""Sizes in words, for people. Both sides import it."""


def size_in_words(number):
    """``812 bytes``, ``1.5 MiB``, ``64 GiB``."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= unit:
            return ("%.1f" % (number / unit)).replace(".0", "") + " " + name
    return "%d bytes" % number
