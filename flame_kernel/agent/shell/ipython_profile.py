"""Loads the user's IPython profile on the far side, its configuration and startup files, as ipykernel does.

Only for a process that is the session's own: in a live app they would change what the app itself uses.
"""

import logging
import os
import traceback
import types


def folder():
    """The folder in which IPython keeps the user's profiles."""
    return os.environ.get("IPYTHONDIR") or os.path.join(os.path.expanduser("~"), ".ipython")


def _profile():
    return os.path.join(folder(), "profile_default")


def configuration():
    """``(the settings in ipython_config and ipython_kernel_config, an error text for each file that failed)``."""
    from IPython.core import application
    from traitlets.config import Config
    from traitlets.config.loader import ConfigFileNotFound, JSONFileConfigLoader, PyFileConfigLoader

    config, problems = Config(), []
    for name in ("ipython_config", "ipython_kernel_config"):
        for path in [*application.SYSTEM_CONFIG_DIRS[::-1], *application.ENV_CONFIG_DIRS[::-1], _profile()]:
            for loader, ending in ((PyFileConfigLoader, ".py"), (JSONFileConfigLoader, ".json")):
                try:
                    config.merge(loader(name + ending, path=path).load_config())
                except ConfigFileNotFound:
                    pass
                except Exception:  # the user's own code, which may raise anything; it is shown with the first cell
                    file = os.path.join(path, name + ending)
                    problems.append("%s is left out:\n%s" % (file, traceback.format_exc(limit=-1)))
    return config, problems


def start(ip):
    """Load the extensions that the configuration names, and run its lines, its files, and the startup files."""
    from IPython.core.shellapp import InteractiveShellApp

    app = InteractiveShellApp(config=ip.config)
    app.shell = ip
    app.log = logging.getLogger("flame.startup")  # warnings go to the cell's stderr
    app.name, app.extra_args = "ipython", []
    app.ipython_dir = folder()
    app.profile_dir = types.SimpleNamespace(location=_profile(), startup_dir=os.path.join(_profile(), "startup"))
    app.init_gui_pylab()
    app.init_extensions()
    app.init_code()
