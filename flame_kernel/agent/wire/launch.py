"""How a new interpreter begins, on both sides: without the folder where it was started, and without our keys.

Both sides import it.
"""

import sys

# The first lines of a program that is started with ``python -c``: nothing is imported from the current folder, where a
# json.py may lie. It is on the path by "", or in PYTHONPATH; ``left`` is what was taken off. What stands behind the
# standard library has been installed, and stays. ``os`` is there already, so it comes from nowhere.
LEAVE_FOLDER = """\
import sys
first = 1
try:
    import os
    first = sys.path.index(os.path.dirname(os.__file__))
    here = os.getcwd()
except (OSError, ValueError):
    here = ""
left = [folder for folder in sys.path[:first] if not folder or os.path.realpath(folder) == here]
sys.path[:first] = [folder for folder in sys.path[:first] if folder not in left]
if os.environ.get("PYTHONSAFEPATH", "")[:1] == "$":  # ours, see kernel.json: not for what is started from here
    del os.environ["PYTHONSAFEPATH"]
del first, here
"""


def leave_folder():
    """The same for a program that Python has found by ``-m``."""
    exec(LEAVE_FOLDER, {})


def interpreter(path, version=sys.version_info):
    """How a Python starts such a program: what it imports itself before the first line (since 3.13 linecache) does not
    come from the folder either."""
    return [path] + (["-P"] if version >= (3, 11) else [])


# How the names of variables begin that hold a key, or lead to one: the server's, and those of its clients.
SECRETS = ("PYRO_HMAC_KEY", "FLAME_KEY", "FLAME_NS_KEY")


def without_secrets(environ, named=()):
    """A copy of an environment without keys; ``named``: variables that hold one besides."""
    return {name: value for name, value in environ.items() if not name.startswith(SECRETS) and name not in named}
