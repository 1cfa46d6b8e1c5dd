"""Makes a private CA and certificates for a server and its clients, as mutual TLS with a stock server needs.

::

    ca.pem         the CA's certificate; server and clients trust it (PYRO_SSL_CACERTS there, tls.ca here)
    ca.key         the CA's private key; needed only to sign more certificates
    server.pem     the server's certificate and private key (PYRO_SSL_SERVERCERT)
    NAME.pem       a client's certificate and private key (tls.certificate)

All are made in one folder of mode 0700 and have mode 0600.  Stock Pyro accepts every certificate of its CA, so a
server's certificate is made unusable for clients, and a client's for servers.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..connect.installation import pip_install
from ..connect.keys import check_private, read_small
from ..connect.location import Location
from ..errors import TargetError
from ..security import private_files

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_DAYS = 3650
DAYS = 825  # the longest validity that all TLS libraries accept from a private CA

_MAX_PEM = 1 << 16  # bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_EARLIER = datetime.timedelta(hours=1)  # certificates are valid this much earlier, because clocks differ


@dataclass(frozen=True)
class Authority:
    """The private CA in ``folder``; it is made if there is none. Raises TargetError."""

    folder: Path

    def __post_init__(self) -> None:
        _library()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self.folder.stat()
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        mode = status.st_mode & 0o777
        if os.name == "nt":
            check_private(self.folder, "the CA's folder", status)
        elif mode & 0o077:
            raise TargetError(f"{self.folder} is open to others (mode {mode:04o}); run: chmod 700 {self.folder}")
        if not self.certificate.exists() and not self._key.exists():
            self._make()

    @property
    def certificate(self) -> Path:
        """The file with the CA's certificate, which others should trust."""
        return self.folder / "ca.pem"

    @property
    def _key(self) -> Path:
        return self.folder / "ca.key"

    def server(self, hosts: Sequence[str], *, replace: bool = False, days: float = DAYS) -> Path:
        """Make ``server.pem``, a certificate for a server that clients reach as ``hosts`` (names or addresses)."""
        from cryptography import x509

        if not hosts:
            raise TargetError("a server's certificate needs the name under which it is reached; give a host")
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                Location.parse(f"{host}:1")  # raises an error that says what is wrong
                if not host.isascii():
                    host = host.encode("idna").decode("ascii")
                names.append(x509.DNSName(host))
        usage = x509.oid.ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue("server", hosts[0], usage, names, replace, days)

    def client(self, name: str, *, replace: bool = False, days: float = DAYS) -> Path:
        """Make ``NAME.pem``, a certificate for a client called ``name``."""
        from cryptography import x509

        if not _NAME.fullmatch(name) or name in ("ca", "server"):
            raise TargetError(
                f"{name!r} is not a usable name for a client; use letters, digits and _ . - (not ca, server)"
            )
        return self._issue(name, name, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH, [], replace, days)

    # --- making

    def _make(self) -> None:
        from cryptography import x509

        key = _new_key()
        name = _distinguished(f"Remote Flame CA of {socket.gethostname()[:40]}, {os.urandom(4).hex()}")
        built = (
            _builder(name, name, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
        )
        _write(self._key, _key_pem(key))
        _write(self.certificate, _pem(_sign(built, key)))

    def _load(self) -> tuple[x509.Certificate, Any]:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        raw, status = read_small(self._key, "the key of the CA", _MAX_PEM)
        check_private(self._key, "the key of the CA", status)
        try:
            key = serialization.load_pem_private_key(raw, None)
            text = read_small(self.certificate, "the CA's certificate", _MAX_PEM)[0]
            certificate = x509.load_pem_x509_certificate(text)
        except (ValueError, TypeError) as error:
            raise TargetError(f"{self.folder} holds no CA that can be read ({error}); choose another folder") from error
        if certificate.public_key() != key.public_key():
            raise TargetError(f"ca.pem and ca.key in {self.folder} do not belong together; choose another folder")
        return certificate, key

    def _issue(
        self,
        file: str,
        common_name: str,
        usage: x509.ObjectIdentifier,
        names: list[x509.GeneralName],
        replace: bool,
        days: float,
    ) -> Path:
        from cryptography import x509

        path = self.folder / f"{file}.pem"
        if path.exists() and not replace:
            raise TargetError(f"{path} exists already; choose to replace it, or another name or folder")
        ca, ca_key = self._load()
        key = _new_key()
        built = (
            _builder(_distinguished(common_name), ca.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if names:
            built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        _write(path, _pem(_sign(built, ca_key)) + _key_pem(key))
        return path


def self_signed(name: str, days: float = 365) -> tuple[str, str]:
    """A certificate that is its own CA, and its private key, as PEM text: for parties that all have both."""
    _library()
    key = _new_key()
    subject = _distinguished(name)
    certificate = _sign(_builder(subject, subject, key.public_key(), days), key)
    return _pem(certificate).decode("ascii"), _key_pem(key).decode("ascii")


def fingerprint(path: Path) -> str:
    """SHA-256 of the first certificate in a PEM file as 64 hex digits, as a pin is written; raises TargetError."""
    _library()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        certificate = x509.load_pem_x509_certificate(read_small(path, "the certificate", _MAX_PEM)[0])
    except ValueError as error:
        raise TargetError(f"{path} holds no PEM certificate; name one that does") from error
    return certificate.fingerprint(hashes.SHA256()).hex()


def names(path: Path) -> list[str]:
    """The hosts and addresses in a PEM file's certificate; empty if it cannot be read."""
    try:
        from cryptography import x509
    except ImportError:
        return []
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes()).extensions
        return [str(one.value) for one in found.get_extension_for_class(x509.SubjectAlternativeName).value]
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []


def _library() -> None:
    try:
        import cryptography.x509  # noqa: F401
    except ImportError as error:
        raise TargetError(
            f"making certificates needs a package that is not installed; run: {pip_install('certs')}"
        ) from error


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _distinguished(common_name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, common_name[:64])])


def _builder(subject: x509.Name, issuer: x509.Name, public_key: Any, days: float) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(built: x509.CertificateBuilder, key: Any) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return built.sign(key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    try:
        private_files.replace(path, data)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> TargetError:
    return TargetError(f"cannot write {path}: {error.strerror}; check the folder's owner and its space")
