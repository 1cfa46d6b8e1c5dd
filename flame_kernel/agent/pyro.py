"""Facts about this process's Pyro: the kind of server, and whether it is part of an app."""

import sys


def servertype():
    """``thread`` or ``multiplex``."""
    config = getattr(sys.modules.get("Pyro4.configuration"), "config", None)
    return getattr(config, "SERVERTYPE", "thread")


def is_multiplex():
    """Whether one call blocks all others."""
    return servertype() == "multiplex"


def is_bare_flameserver():
    """Whether this process is Pyro's own flame server, and not an app that serves Flame."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "Pyro4.utils.flameserver" in sys.modules or getattr(spec, "name", None) == "Pyro4.utils.flameserver"
