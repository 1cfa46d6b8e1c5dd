"""Starts Flame inside a process: RUNS IN THAT PROCESS, in Python 3.6 or newer, standard library only.

``ignite.py`` runs this text on a thread of the process, as the module ``flame_ignition``.  If the process can import
Pyro4, that one is used; else the source of Pyro4 is sent along and imported from memory.  ``handle`` does one request:

    ignite      key (text), modules ({name: [is a package, text]}), settings (of Pyro4.config), hardening (text)
                answer: {"port", "python", "brought", "program"}; or {"is": port} if Flame runs here already
    extinguish  answer: {"threads", "modules"}: what could not be removed
"""

import contextlib
import importlib
import importlib.abc
import importlib.util
import linecache
import os
import socket
import sys
import threading
import time

ME = "flame_ignition"
OLDEST = (3, 6)
# Modules with these names are removed again, if they were not there before.
OURS = ("Pyro4", "serpent")
# Seconds to wait for sessions and threads to end.
PATIENCE = 5.0


class Refused(Exception):
    """A request cannot be done. The text is the reason, as the rest of a sentence that begins with "the process"."""


def handle(request):
    """Do one request and return the answer, which has ``error`` if it failed. Never raises."""
    try:
        if request["do"] == "ignite":
            return ignite(request)
        living = sys.modules.get(ME)
        if living is None:
            raise Refused("is not ignited")
        return living.fire.extinguish()
    except Refused as e:
        return {"error": str(e)}
    except Exception as e:  # the caller waits for an answer, whatever went wrong; it gets the text
        return {"error": "cannot do that: %s: %s" % (type(e).__name__, e)}


def ignite(request):
    """Start Flame in this process, on loopback."""
    living = sys.modules.get(ME)
    if living is not None:
        return {"is": living.fire.port}
    fire = Ignition(request["modules"])
    try:
        fire.light(request["key"].encode("ascii"), request["settings"], request["hardening"])
    except BaseException:  # raised again, whatever it is; nothing of ours stays in the process
        fire.clear()
        raise
    module = type(sys)(ME, __doc__)
    module.fire = fire
    sys.modules[ME] = module
    return {
        "port": fire.port,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "brought": fire.brought,
        "program": os.path.basename(getattr(sys.modules.get("__main__"), "__file__", None) or ""),
    }


class Texts(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from their source text. It is the last finder, so the process's own modules come first."""

    def __init__(self, modules):
        self._modules = modules

    def find_spec(self, name, path=None, target=None):
        if name not in self._modules:
            return None
        return importlib.util.spec_from_loader(name, self, origin="<flame %s>" % name, is_package=self.is_package(name))

    def is_package(self, fullname):
        return self._modules[fullname][0]

    def get_source(self, fullname):
        return self._modules[fullname][1]


class Ignition:
    """The server in this process, and the modules that came with it."""

    port = None

    def __init__(self, modules):
        self._found = {name.partition(".")[0] for name in list(sys.modules)}
        self._texts = Texts(modules)
        self._daemon = self._hardened = None
        self.brought = False

    def light(self, key, settings, hardening):
        """Import Pyro4, and start a server on a thread of its own."""
        core, flame, config = self._import()
        names = set(settings) | {"SERVERTYPE", "SERIALIZERS_ACCEPTED"}
        before = {name: getattr(config, name) for name in names}
        try:
            if "Pyro4" not in self._found:
                config.reset(False)  # ignore Pyro's environment variables: they are not meant for us
            for name, value in settings.items():
                setattr(config, name, value)
            config.SERVERTYPE = "thread"
            config.SERIALIZERS_ACCEPTED = {"pickle"}
            self._daemon = core.Daemon("127.0.0.1", 0)
            self._daemon._pyroHmacKey = key
            flame.start(self._daemon)
        finally:
            if "Pyro4" in self._found:  # the process itself uses Pyro4: restore its settings
                for name, value in before.items():
                    setattr(config, name, value)
        spec = Texts({"flame_hardening": (False, hardening)}).find_spec("flame_hardening")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._hardened = module.harden(self._daemon)
        self.port = self._daemon.transportServer.sock.getsockname()[1]
        thread = threading.Thread(target=self._serve, args=(self._daemon,), name="flame-ignited")
        thread.daemon = True
        thread.pydev_do_not_trace = thread.is_pydev_daemon_thread = True
        self._thread = thread
        thread.start()

    def _serve(self, daemon):
        try:
            daemon.requestLoop()
        except Exception:  # Pyro's loop may still use the socket while it is being closed
            if self._daemon is not None:
                raise

    def _import(self):
        try:
            found = all(importlib.util.find_spec(name) is not None for name in OURS)
        except (ImportError, ValueError):  # sys.modules has something else under that name
            found = False
        if found:
            try:
                return self._import_all()
            except Exception:  # the installed one does not work: another version, a broken installation
                if "Pyro4" in self._found:
                    raise Refused("has a Pyro4 of its own that has no Flame") from None
                self._forget_modules()
        if "Pyro4" in self._found:
            raise Refused("has a module of its own that is called Pyro4")
        self.brought = True
        sys.meta_path.append(self._texts)
        return self._import_all()

    def _import_all(self):
        from Pyro4 import core
        from Pyro4.configuration import config
        from Pyro4.utils import flame

        return core, flame, config

    # -- the end -----------------------------------------------------------------------------------------------------

    def extinguish(self):
        """Remove everything again; return what could not be removed."""
        alone = "Pyro4" not in self._found
        if alone:  # otherwise they may belong to another Flame server of the process
            _end_sessions()
        self._end_server()
        planted = [name for name in list(sys.modules) if alone and name.startswith("flame_agent_")]
        for name in planted:
            sys.modules.pop(name, None)
        for name in [name for name in list(linecache.cache) if alone and name.startswith("<flame_agent_")]:
            linecache.cache.pop(name, None)
        self.clear()
        sys.modules.pop(ME, None)
        deadline = time.monotonic() + PATIENCE
        while _threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        left = [name for name in list(sys.modules) if alone and name.partition(".")[0] in self._ours()]
        return {"threads": _threads(), "modules": sorted(left)}

    def _end_server(self):
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        self._end_hardening()
        server = daemon.transportServer
        for worker in list(server.pool.busy):
            with contextlib.suppress(AttributeError, OSError):  # the worker is just ending by itself
                worker.job.csock.sock.shutdown(socket.SHUT_RDWR)
        daemon.shutdown()
        if server._selector is not None:
            server._selector.close()  # Pyro would leave that to the garbage collector
        self._thread.join(PATIENCE)

    def _end_hardening(self):
        hardened, self._hardened = self._hardened, None
        if hardened is not None:
            hardened.undo()

    def clear(self):
        """Remove the modules and the finder that we brought."""
        self._end_hardening()
        if self._daemon is not None:
            self._daemon.close()
        self._forget_modules()
        if self._texts in sys.meta_path:
            sys.meta_path.remove(self._texts)

    def _ours(self):
        return [name for name in OURS if name not in self._found]

    def _forget_modules(self):
        import logging

        for name in list(sys.modules):
            if name.partition(".")[0] in self._ours():
                linecache.cache.pop("<flame %s>" % name, None)
                del sys.modules[name]
        for name in list(logging.Logger.manager.loggerDict):
            if name.partition(".")[0] in self._ours():
                del logging.Logger.manager.loggerDict[name]


def _end_sessions():
    """End all notebook sessions in this process, of every version of the agent."""
    for name in [name for name in list(sys.modules) if name.startswith("flame_agent_") and name.count(".") == 0]:
        handle, wire = _loaded(name, ".handle", ".session"), _loaded(name, ".wire.message", ".wire")
        if handle is None or wire is None:
            continue
        living = wire.decode(handle.handle(wire.encode({"op": "sessions", "n": 1})))[0].get("result", ())
        for one in living:
            request = {"op": "kill", "session": one["session"], "life": one.get("life"), "n": 2}
            handle.handle(wire.encode(request))


def _loaded(agent, now, before):
    """A module of an agent, by its present name ``now``, or its name ``before`` in older agents (one flat folder)."""
    return sys.modules.get(agent + now) or sys.modules.get(agent + before)


def _threads():
    """The names of Flame's threads, except the current one."""
    mine = threading.current_thread()
    return sorted(
        thread.name
        for thread in threading.enumerate()
        if thread is not mine and thread.name.startswith(("flame-", "Pyro-Worker-"))
    )
