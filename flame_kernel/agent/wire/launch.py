"""How both sides start a new Python interpreter: without imports from the current folder, and without our keys.

Both sides import it.
"""

import os
import subprocess
import sys

# The first lines of a program started with ``python -c``. They stop imports from the current folder, where someone's
# own json.py may lie. The folder is on the path as "" or through PYTHONPATH; ``left`` is what was removed. Entries
# behind the standard library are installed packages, and stay. ``os`` is already loaded, so importing it reads no file.
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
    """The same for a program that was started with ``python -m``."""
    exec(LEAVE_FOLDER, {})


def interpreter(path, version=sys.version_info):
    """The command that starts such a program. Python's own imports before the first line (linecache since 3.13) also
    avoid the current folder."""
    return [path] + (["-P"] if version >= (3, 11) else [])


def passed(numbers):
    """How a child inherits descriptors: ``(words for its command line, arguments for Popen)``. On Windows it inherits
    handles, and these alone."""
    if os.name != "nt":
        return [str(number) for number in numbers], {"pass_fds": numbers}
    import msvcrt

    handles = [msvcrt.get_osfhandle(number) for number in numbers]
    for handle in handles:
        os.set_handle_inheritable(handle, True)
    about = subprocess.STARTUPINFO()
    about.lpAttributeList = {"handle_list": handles}
    return [str(handle) for handle in handles], {"startupinfo": about}


# Prefixes of environment variables that hold a key or lead to one: the server's and its clients'.
SECRETS = ("PYRO_HMAC_KEY", "FLAME_KEY", "FLAME_NS_KEY")


def without_secrets(environ, named=()):
    """A copy of an environment without keys; ``named`` lists further variables that hold one."""
    return {name: value for name, value in environ.items() if not name.startswith(SECRETS) and name not in named}
