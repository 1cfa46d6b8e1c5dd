"""The lines of a source text that has no file, for ``linecache``."""

import io


def lines_of(text):
    """The lines, as ``linecache`` has those of a file: ``str.splitlines`` would also split at form feeds and others."""
    lines = io.StringIO(text, None).readlines()
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"  # traceback counts on it to place its marks
    return lines
