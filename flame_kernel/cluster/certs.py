"""TLS of a cluster: the certificates for this side, its workers, and a scheduler on a host."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distributed.security import Security

from ..errors import TargetError
from ..serve import certs

PLAIN = (
    "the cluster has neither TLS nor a password, so anyone who reaches a port of its scheduler or "
    "workers can run code there; on loopback that is every user of these machines"
)
_FILES = ("tls_ca_file", "tls_{role}_cert", "tls_{role}_key")
_OTHERS = ("require_encryption", "tls_ciphers")


@dataclass(frozen=True)
class Roles:
    """``here`` is dask's Security for this process. ``worker`` and ``scheduler`` are the arguments for a Security on a
    host, with certificates and keys as text; None: no TLS."""

    here: Security
    worker: dict[str, Any] | None = field(repr=False)
    scheduler: dict[str, Any] | None = field(repr=False)

    @classmethod
    def of(cls, security: Any, warn: Callable[[str], None]) -> Roles:
        """The Roles for what the user gave as ``security``: True, False, or a Security. Raises TargetError."""
        if security is False:
            warn(f"security=False: {PLAIN}")
            return cls(Security(), None, None)
        if security is True or security is None:
            certificate, key = certs.self_signed("dask-internal")
            files = {
                f"tls_{role}_{what}": text
                for role in ("client", "scheduler", "worker")
                for what, text in (("cert", certificate), ("key", key))
            }
            security = Security(require_encryption=True, tls_ca_file=certificate, **files)
        if not isinstance(security, Security):
            raise TargetError(f"security is True, False or a dask.distributed.Security, not {security!r}")
        if not security.require_encryption and not _text(getattr(security, "tls_ca_file", None)):
            warn(f"security=Security() without encryption: {PLAIN}")
            return cls(security, None, None)
        return cls(security, _of_role(security, "worker"), _of_role(security, "scheduler"))


def _of_role(security: Security, role: str) -> dict[str, Any]:
    found = {name: getattr(security, name) for name in _OTHERS}
    for template in _FILES:
        name = template.format(role=role)
        found[name] = _text(getattr(security, name))
    return {name: value for name, value in found.items() if value is not None}


def of_client(security: Security) -> dict[str, Any] | None:
    """The arguments for the Security of a client, with certificates and keys as text; None: no TLS."""
    if not security.require_encryption and not _text(getattr(security, "tls_ca_file", None)):
        return None
    return _of_role(security, "client")


def _text(value: str | None) -> str | None:
    """The text of a certificate or key; ``value`` is that text or the name of a file."""
    if value is None or "\n" in value:
        return value
    try:
        with open(os.path.expanduser(value), encoding="ascii") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as e:
        raise TargetError(f"security: {value} cannot be read ({e})") from None
