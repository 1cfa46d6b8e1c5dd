"""What other projects' tests find different, each with its reason. The tables only ever get shorter: a test that passes
and still stands here fails ``test_suites``."""

from __future__ import annotations

from outside import Suite

SUITES = (
    Suite(
        "nbclient",
        "0.11.0",
        "04a134a5b087f2c5887f228aca155db50169b8cd9334dee6942c8e927e56081a",
        ("tests/test_client.py", "tests/test_cli.py"),
        "test_run_all_notebooks or test_kernel_death_during or test_force_raise or test_widgets or test_cli_simple",
        (122, 20),
    ),
    Suite(
        "nbconvert",
        "7.17.2",
        "344a218e8595117ce37396ed025d994f146d076226ebac59255a2fa085ab24d8",
        ("tests/preprocessors/test_execute.py",),
        "test",
        (5, 5),
    ),
    Suite(
        "papermill",
        "2.7.0",
        "ec10b37594a060662f57269e1ebd108c209d204450f00fdfeb70a1c7cfb7fbc8",
        tuple(f"papermill/tests/test_{name}.py" for name in ("execute", "engines", "autosave", "clientwrap")),
        "TestNotebookHelpers or TestBroken or TestReportMode or TestCWD or TestSysExit or TestOutputFormatting",
        (63, 20),
    ),
    Suite(
        "jupyter_console",
        "6.6.3",
        "566a4bf31c87adbfadf22cdf846e3069b59a71ed5da71d6ba4d8aaad14a53539",
        ("jupyter_console/tests/test_console.py",),
        "test",
        (5, 5),
    ),
    Suite(
        "nbmake",
        "1.5.5",
        "239dc868ea13a7c049746e2aba2c229bd0f6cdbc6bfa1d22f4c88638aa4c5f5c",
        ("tests",),
        "",
        (33, 0),
    ),
    Suite(
        "jupyter_client",
        "8.10.0",
        "9f7116294dca55f1785be880057d44544db9b1567718d92cb33c58886afb9497",
        tuple(
            f"tests/test_{name}.py"
            for name in ("client", "kernelmanager", "manager", "multikernelmanager", "restarter")
        ),
        "",
        (109, 0),
    ),
    Suite(
        "jupyter_kernel_gateway",
        "3.0.1",
        "900690c4c0e796867355468d685f7fa1cf3c7775d08e871c157f77d65fbd6d7f",
        ("tests/test_jupyter_websocket.py", "tests/test_notebook_http.py", "tests/test_gatewayapp.py"),
        "",
        (65, 0),
    ),
    Suite(
        "jupyter_server",
        "2.21.1",
        "a8960aa29263f6041283e97d4756b099fb49b767baab6371891ecb1bd40a63df",
        ("tests/services/kernels", "tests/services/sessions"),
        "",
        (180, 0),
    ),
)

# Suites whose quick tests run in a live process as well.
QUICK_IN_PROCESS = ("nbclient", "nbconvert", "papermill")

# What these versions fail with ipykernel too.
ALSO_ON_IPYKERNEL = {
    "papermill": {"TestBrokenNotebook2::test": "written for an older IPython, which showed the error elsewhere"},
    "jupyter_kernel_gateway": {"TestRemoteSeedURI::test_seed[jp_argv0]": "fetches a page of the internet"},
}

# (suite, place) -> test -> why it fails on ours and passes on ipykernel.
_DEATH = (
    "a cell that kills the process in which it runs ends that session; the kernel, on this side, goes on and says so"
)
_INTERRUPT = {
    f"{manager}::test_subclass_callables[{transport}]": "counts signals: this kernel is interrupted by a message"
    for manager in ("TestKernelManager", "TestAsyncKernelManager")
    for transport in ("tcp", "ipc")
}
DIFFERENCES: dict[tuple[str, str], dict[str, str]] = {
    ("jupyter_client", "child"): _INTERRUPT,
    ("jupyter_client", "process"): _INTERRUPT,
    ("nbclient", "child"): {"TestExecute::test_kernel_death_during_execution": _DEATH},
    ("nbclient", "process"): {"TestExecute::test_kernel_death_during_execution": _DEATH},
}
