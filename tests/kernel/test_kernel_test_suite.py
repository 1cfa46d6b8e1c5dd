"""jupyter_kernel_test, complete, against cells with IPython and without it, in a child and inside a live process.

No capability is left out: what the suite knows to ask, each of these kernels answers.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, ClassVar
from unittest import mock

import farside
import jupyter_kernel_test
import leaks
import pytest
from farside import FlameServer, LiveApp
from kernels import KERNEL_NAME
from needs import missing


@pytest.mark.leaves("server and kernel live as long as the class: tearDownClass looks then")
class Suite(jupyter_kernel_test.KernelTests):
    """The samples, and where the cells are to run; each class below has its own place."""

    __test__ = False

    kernel_name = KERNEL_NAME
    language_name = "python"
    file_extension = ".py"

    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('trouble', file=sys.stderr)"

    completion_samples: ClassVar[list[dict[str, Any]]] = [
        {"text": "zi", "matches": {"zip"}},
        {"text": "str.capital", "matches": {"capitalize"}},
    ]

    complete_code_samples: ClassVar[list[str]] = [
        "1",
        "print('hello, world')",
        "for i in range(3):\n    print(i)\n",
        "def f(x):\n  return x*2\n\n\n",
        "%time 1",
        "!ls",
    ]
    incomplete_code_samples: ClassVar[list[str]] = ["print('''hello", "def f(x):\n  x*2", "for i in x:", "(1,"]
    invalid_code_samples: ClassVar[list[str]] = ["import = 7q", "x = = 1", "a b"]

    code_page_something = "zip?"
    code_generate_error = "raise ValueError('as asked')"

    code_execute_result: ClassVar[list[dict[str, str]]] = [
        {"code": "6*7", "result": "42"},
        {"code": "'a' 'b'", "result": "'ab'"},
        {
            "code": "class H:\n    def _repr_html_(self): return '<b>h</b>'\nH()",
            "mime": "text/html",
            "result": "<b>h</b>",
        },
    ]
    code_display_data: ClassVar[list[dict[str, str]]] = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "mime": "text/latex"},
    ]

    # Found in one sample and in no other cell of these classes.
    code_history_pattern = "6?7*"
    supported_history_operations = ("tail", "range", "search")

    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    # A server is started, and a session opened, for all the tests of a class.
    server: ClassVar[FlameServer | LiveApp | None] = None
    left_behind: ClassVar[contextlib.AbstractContextManager[None]]

    @classmethod
    def start_server(cls) -> FlameServer | LiveApp | None:
        """Where the cells are to run; None for the kernel's own server."""
        return None

    @classmethod
    def setUpClass(cls) -> None:
        cls.left_behind = leaks.nothing_left()
        cls.left_behind.__enter__()
        cls.server = cls.start_server()
        environ = cls.server.environ() if cls.server else {}
        with mock.patch.dict(os.environ, environ):
            super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        if cls.server:
            cls.server.stop()
        cls.left_behind.__exit__(None, None, None)


class EmbeddedServer(Suite):
    """No target named: the kernel's own server, which has IPython."""

    __test__ = True


def _bare() -> farside.Python:
    bare = [python for python in farside.pythons() if not python.ipython]
    if not bare:
        missing("a Python without IPython (pyenv)")
    return bare[0]


# Without IPython there is nothing of that name to import: the shell has a display of its own.
WITHOUT_IPYTHON: list[dict[str, str]] = [
    {
        "code": "class H:\n    def _repr_html_(self): return '<b>h</b>'\ndisplay(H())",
        "mime": "text/html",
    },
    {
        "code": "class L:\n    def _repr_latex_(self): return '$x$'\ndisplay(L())",
        "mime": "text/latex",
    },
]


class BareServerWithoutIPython(Suite):
    """A stock flameserver on the oldest interpreter: cells run in a child, on the agent's own shell."""

    __test__ = True
    code_display_data = WITHOUT_IPYTHON
    code_clear_output = "display(1, clear=True)"

    @classmethod
    def start_server(cls) -> FlameServer:
        return FlameServer(_bare(), key=farside.random_key())


class LiveAppWithIPython(Suite):
    """Inside the process of an app that has IPython."""

    __test__ = True

    @classmethod
    def start_server(cls) -> LiveApp:
        return LiveApp(farside.pythons()[-1], key=farside.random_key())


class LiveAppWithoutIPython(Suite):
    """Inside the process of an app that has not."""

    __test__ = True
    code_display_data = WITHOUT_IPYTHON
    code_clear_output = "display(1, clear=True)"

    @classmethod
    def start_server(cls) -> LiveApp:
        return LiveApp(_bare(), key=farside.random_key())


@pytest.mark.leaves("its channels are opened in the test and closed with the class")
class Welcome(jupyter_kernel_test.IopubWelcomeTests):
    """The first message on iopub says that the subscription stands."""

    kernel_name = KERNEL_NAME
    support_iopub_welcome = True
