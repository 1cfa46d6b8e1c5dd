"""An app in an odd state, with a Flame server on its main thread: ``APP_BEFORE`` is run first, ``APP_AFTER`` last."""

import os

exec(os.environ.get("APP_BEFORE", ""))

import threading  # noqa: F401, for APP_AFTER

import Pyro4
import Pyro4.utils.flame

Pyro4.config.FLAME_ENABLED = True
Pyro4.config.SERIALIZERS_ACCEPTED = {"pickle"}
Pyro4.config.SERIALIZER = "pickle"
daemon = Pyro4.Daemon(host="127.0.0.1", port=0)
print("app uri: %s" % Pyro4.utils.flame.start(daemon), flush=True)
exec(os.environ.get("APP_AFTER", ""))
daemon.requestLoop()
