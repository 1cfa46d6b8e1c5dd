"""What access lists of Windows say, as it writes them. ``kernel/test_windows_client.py`` reads and sets them there."""

from __future__ import annotations

from pathlib import Path

import pytest

from flame_kernel.connect import keys
from flame_kernel.errors import TargetError
from flame_kernel.security import access_lists

ME, HER = "S-1-5-21-1-2-3-1001", "S-1-5-21-1-2-3-1002"


@pytest.mark.parametrize(
    ("text", "others"),
    [
        (f"D:PAI(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;{ME})", []),
        (f"D:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;FA;;;{ME})", []),  # as in a user's own folder
        ("D:AI(A;ID;FA;;;BA)(A;ID;FA;;;SY)(A;ID;0x1200a9;;;BU)(A;ID;0x1301bf;;;AU)", ["all users", "all who log in"]),
        (f"D:(A;;FR;;;{HER})(A;;FA;;;{ME})", [HER]),
        (f"D:(A;;FA;;;{ME})(A;;0x120080;;;WD)", []),  # attributes alone
        (f"D:(A;;FA;;;{ME})(A;OICIIO;FA;;;WD)", []),  # for files to come
        (f"D:(D;;FA;;;WD)(A;;FA;;;{ME})", []),
        (f"D:(A;;FA;;;{ME})(A;;WD;;;BG)", ["guests"]),  # who may write the list may do all
        ("D:NO_ACCESS_CONTROL", ["everyone"]),
        ("", ["everyone"]),
    ],
)
def test_who_else_may_read_a_file(text: str, others: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_lists, "_access_list", lambda path: text)
    monkeypatch.setattr(access_lists, "_own_id", lambda: ME)
    assert access_lists.others(Path("x")) == others
    if others:
        with pytest.raises(TargetError, match="is open to others"):
            keys._check_access_list(Path("x"), "the key file")
    else:
        keys._check_access_list(Path("x"), "the key file")


def test_a_list_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> str:
        raise OSError(50, "The request is not supported.")

    monkeypatch.setattr(access_lists, "_access_list", fails)
    with pytest.raises(TargetError, match=r"not supported\.\); keep it in your user folder"):
        keys._check_access_list(Path("x"), "the key file")
