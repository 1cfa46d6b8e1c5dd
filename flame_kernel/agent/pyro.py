"""What the Pyro of this process is: its kind of server, and whether an app is around it."""

import sys


def servertype():
    """``thread`` or ``multiplex``."""
    config = getattr(sys.modules.get("Pyro4.configuration"), "config", None)
    return getattr(config, "SERVERTYPE", "thread")


def is_multiplex():
    """Whether one call stops all others."""
    return servertype() == "multiplex"


def is_bare_flameserver():
    """Whether this process is Pyro's own flame server, with no app around it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "Pyro4.utils.flameserver" in sys.modules or getattr(spec, "name", None) == "Pyro4.utils.flameserver"
