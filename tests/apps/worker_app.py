"""A WSGI app with a Flame server in one of its threads: in gunicorn's or uWSGI's master, and in each worker.

Each process says where its own listens: ``master uri: …`` or ``worker uri: …``.
"""

import os
import threading

import Pyro4
import Pyro4.utils.flame

Pyro4.config.FLAME_ENABLED = True
Pyro4.config.SERIALIZERS_ACCEPTED = {"pickle"}
Pyro4.config.SERIALIZER = "pickle"
MASTER = os.getpid()


def serve():
    daemon = Pyro4.Daemon(host="127.0.0.1", port=0)
    uri = Pyro4.utils.flame.start(daemon)
    threading.Thread(target=daemon.requestLoop, daemon=True).start()
    # With its end in the same write: the test reads stdout and stderr one after the other at any moment.
    print("%s uri: %s\n" % ("master" if os.getpid() == MASTER else "worker", uri), end="", flush=True)


def post_fork(server, worker):  # gunicorn calls it in a worker
    serve()


def application(environ, start_response):
    start_response("200 OK", [])
    return [b""]


serve()
try:
    import uwsgi
except ImportError:
    pass
else:
    uwsgi.post_fork_hook = serve
