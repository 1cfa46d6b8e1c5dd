"""TLS to one server, with a context that trusts only what its target names.

What is trusted is one of:

* ``ca``       the certificates in a PEM file: a private CA's, or the server's own. The host's name is checked.
* ``pin``      the one certificate with this SHA-256 fingerprint, whatever its name and issuer.
* nothing      the certificate of the first contact: the user sees its fingerprint and is asked once; it is saved in a
               file, like ssh's known hosts. From then on, any other certificate at that location is refused.
* ``verify`` False   any certificate; for tests only.

The oldest version accepted is TLS 1.2. Failures raise CannotConnect with a cause, before any data of ours is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

from ..errors import CannotConnect, TargetError
from ..security import private_files
from .keys import Ask, check_private, read_small
from .location import Location

SYSTEM = "system"  # a value of `ca`: the certificate authorities that this machine trusts

_MAX_PEM = 1 << 20  # bytes
_MAX_KNOWN = 1 << 20
_PIN = re.compile(r"[0-9a-f]{64}")

# Seconds that a server has to answer when we test whether it speaks TLS.
PROBE = 3.0

# OpenSSL's verdicts on a certificate (X509_V_ERR_…) as our causes.
_VERDICTS = {
    9: "tls_not_yet",
    10: "tls_expired",
    18: "tls_self_signed",
    19: "tls_untrusted",
    20: "tls_untrusted",
    21: "tls_untrusted",
    62: "tls_name",
    64: "tls_name",
}
# The server's verdict on ours: parts of OpenSSL's names for the alerts.
_REFUSED_OURS = (
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "UNSUPPORTED_CERTIFICATE",
    "ACCESS_DENIED",
    "DECRYPT_ERROR",
)
_VERSIONS = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "INSUFFICIENT_SECURITY")
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
)


@dataclass(frozen=True)
class Tls:
    """How to speak TLS to a server; paths are absolute or relative to the current folder."""

    ca: str | None = None  # PEM file, or "system"
    pin: str | None = None  # SHA-256 of the server's certificate, 64 hex digits
    certificate: str | None = None  # our client certificate, for servers that require one: PEM, with its chain
    key_file: str | None = None  # the private key of `certificate`; None: it is in the same file
    verify: bool = True
    server_name: str | None = None  # the name that the certificate must have; None: the host of the location
    known: Path | None = None  # the file of accepted fingerprints; None: an unknown certificate is refused
    _made: list[ssl.SSLContext] = field(default_factory=list, init=False, compare=False, repr=False)
    _met: list[str] = field(default_factory=list, init=False, compare=False, repr=False)  # the accepted fingerprint

    def __post_init__(self) -> None:
        if self.pin is not None:
            object.__setattr__(self, "pin", normal_pin(self.pin))
        if sum((self.ca is not None, self.pin is not None, not self.verify)) > 1:
            raise TargetError("tls has more than one of ca, pin and verify = false; keep the one that you mean")
        if self.key_file is not None and self.certificate is None:
            raise TargetError(
                "tls names a key_file without a certificate; add certificate = the PEM file that belongs to it"
            )

    @property
    def remembers(self) -> bool:
        """True if the certificate of the first contact is the one to trust."""
        return self.verify and self.ca is None and self.pin is None

    def context(self, ask: Ask | None = None) -> ssl.SSLContext:
        """The SSL context, made once: later changes of files have no effect. TargetError if a file is invalid."""
        if not self._made:
            self._made.append(self._make(ask))
        return self._made[0]

    def _make(self, ask: Ask | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is None:
            # The fingerprint is checked right after the handshake, in which the server proves that it has the key.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca == SYSTEM:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            # The file may hold the server's own certificate instead of the one that signed it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            text = _read_pem(self.ca, "the CA file")[0]
            try:
                context.load_verify_locations(cadata=text)
            except (ssl.SSLError, ValueError) as error:
                raise TargetError(f"the CA file {self.ca} holds no PEM certificate; name the right one") from error
        if self.certificate is not None:
            self._load_own(context, ask)
        return context

    def _load_own(self, context: ssl.SSLContext, ask: Ask | None) -> None:
        assert self.certificate is not None
        text, status = _read_pem(self.certificate, "the client certificate")
        if "PRIVATE KEY-----" in text:
            check_private(Path(self.certificate), "the client certificate with its key,", status)
        if self.key_file is not None:
            text, status = _read_pem(self.key_file, "the client certificate's key")
            check_private(Path(self.key_file), "the client certificate's key", status)
        asked: list[str | None] = []

        def passphrase() -> str:  # without this OpenSSL itself would ask on the terminal, if there is one
            asked.append(ask(f"Passphrase of {self.key_file or self.certificate}: ", True) if ask else None)
            return asked[-1] or ""

        try:
            context.load_cert_chain(self.certificate, self.key_file, passphrase)
        except (ssl.SSLError, OSError, ValueError) as error:
            if asked:
                why = "the passphrase is wrong" if asked[-1] else "its key wants a passphrase, and none is given"
            elif getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                why = "its key belongs to another certificate"
            else:
                why = "it holds no PEM certificate with its private key"
            what = f"the client certificate {self.certificate} cannot be used"
            raise TargetError(f"{what}: {why}; check certificate and key_file of tls") from error


def normal_pin(text: str) -> str:
    """A fingerprint in any common form (``sha256:``, ``AB:CD:…``) as 64 lower-case hex digits; raises TargetError."""
    digits = text.strip().lower()
    digits = digits.removeprefix("sha256").removeprefix(" fingerprint").lstrip(":= ").replace(":", "")
    if not _PIN.fullmatch(digits):
        raise TargetError(
            "a pin is the SHA-256 fingerprint of the server's certificate: 64 hex digits, colons between allowed"
        )
    return digits


def shown_pin(digits: str) -> str:
    """A fingerprint as openssl and browsers show it: ``AB:CD:…``."""
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


def _read_pem(path: str, what: str) -> tuple[str, os.stat_result]:
    data, status = read_small(Path(path), what, _MAX_PEM)
    return data.decode("ascii", "replace"), status


# --- the handshake


def wrap(
    connection: socket, settings: Tls, place: Location, deadline: float, ask: Ask | None
) -> tuple[ssl.SSLSocket, float]:
    """Wrap ``connection`` in TLS and verify the server; raises CannotConnect, TargetError.

    Returns the TLS socket and the seconds spent waiting for the user's answer. ``deadline`` is monotonic. The result
    owns ``connection``; on an error it is closed.
    """
    location = str(place)
    name = settings.server_name or place.host or "localhost"
    try:
        context = settings.context(ask)
        # Try the name without the socket first: if OpenSSL does not accept it, wrap_socket would lose the socket.
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        wrapped = context.wrap_socket(connection, server_hostname=name, do_handshake_on_connect=False)
    except (ValueError, UnicodeError) as error:
        connection.close()
        raise TargetError(f"{name!r} is not a name that a certificate can have; correct server_name of tls") from error
    except BaseException:  # raised again, whatever it is; the socket is closed
        connection.close()
        raise
    try:
        try:
            wrapped.do_handshake()
        except OSError as error:
            raise _why(error, settings, location, wrapped.cipher() is not None) from error
        waited = 0.0
        if settings.ca is None and settings.verify:
            certificate = wrapped.getpeercert(binary_form=True) or b""
            waited = _check_pin(hashlib.sha256(certificate).hexdigest(), settings, location, ask)
        return wrapped, waited
    except BaseException:  # raised again, whatever it is; the socket is closed
        wrapped.close()
        raise


def _why(error: OSError, settings: Tls, location: str, agreed: bool) -> CannotConnect:
    """The error for a failed handshake; ``agreed``: a cipher had been chosen before it failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = _VERDICTS.get(error.verify_code, "tls_failed")
        return CannotConnect(location, cause, "" if cause == "tls_expired" else error.verify_message)
    if isinstance(error, TimeoutError):
        return CannotConnect(location, "timeout", "it takes connections but does not answer to a TLS handshake")
    if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        known = alert(error)
        if known is None and agreed and settings.certificate is None and "HANDSHAKE_FAILURE" in (error.reason or ""):
            known = "tls_client_missing"  # TLS 1.2 has no special alert for a missing client certificate
        return CannotConnect(location, known or "tls_failed", "" if known else words(error))
    return CannotConnect(location, "closed", "in the middle of the TLS handshake; does it speak TLS?")


def alert(error: ssl.SSLError) -> str | None:
    """Our cause for OpenSSL's reason, if a setting can fix it; else None."""
    reason = error.reason or ""
    if "CERTIFICATE_REQUIRED" in reason:
        return "tls_client_missing"
    if "ALERT" in reason and any(part in reason for part in _REFUSED_OURS):
        return "tls_client_refused"
    if any(part in reason for part in _VERSIONS):
        return "tls_version"
    if any(part in reason for part in _NOT_TLS):
        return "tls_plain"
    return None


def words(error: ssl.SSLError) -> str:
    """OpenSSL's reason in plain words, without the line of its C source."""
    reason = error.reason or str(error.args[-1] if error.args else error)
    return re.sub(r"\s*\(_ssl\.c:\d+\)", "", reason).replace("_", " ").lower()


# --- first contacts


def _check_pin(found: str, settings: Tls, location: str, ask: Ask | None) -> float:
    """Compare a fingerprint with the pinned or remembered one, or ask the user.

    Returns the seconds spent waiting for the answer; raises CannotConnect.
    """
    wanted = settings.pin or (settings._met[0] if settings._met else None)
    if wanted is None and settings.known is not None:
        wanted = read_known(settings.known).get(location)
    if wanted == found:
        settings._met[:] = [found]  # reconnections accept this one without asking, even if the file changes
        return 0.0
    if wanted is not None:
        where = "the pin in its settings" if settings.pin else f"the one in {settings.known}"
        detail = f"SHA-256 {shown_pin(found)}, and {where} is {shown_pin(wanted)}"
        raise CannotConnect(location, "tls_changed", detail)
    detail = f"SHA-256 {shown_pin(found)}"
    if ask is None or settings.known is None:
        raise CannotConnect(location, "tls_unknown", detail)
    began = time.monotonic()
    answer = ask(
        f"The flame server at {location} is not known here. Its certificate has the fingerprint\n{detail}\n"
        "Compare it with what the server's owner says. Trust it from now on (yes/no)? ",
        False,
    )
    if answer is None or answer.strip().lower() not in ("yes", "y"):
        raise CannotConnect(location, "tls_unknown", detail)
    remember(settings.known, location, found)
    settings._met[:] = [found]
    return time.monotonic() - began


def read_known(path: Path) -> dict[str, str]:
    """The fingerprints in the file, by location; empty if there is no file; raises TargetError."""
    if not path.exists():
        return {}
    what = "the file of known servers"
    data, status = read_small(path, what, _MAX_KNOWN)
    check_private(path, what, status)
    found = {}
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        digits, _, location = line.partition(" ")
        if not location:
            raise TargetError(f"line {number} of {path} is not a fingerprint with a location; remove that line")
        found[location] = normal_pin(digits)
    return found


def remember(path: Path, location: str, digits: str) -> None:
    """Add a line to the file of known servers, and create it if necessary; raises TargetError."""
    try:
        private_files.append(path, f"sha256:{digits} {location}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise TargetError(f"cannot write {path}: {error.strerror}; check the folder's owner") from error


def forget(path: Path, location: str) -> bool:
    """Remove ``location`` from the file of known servers; False if it was not there. Raises TargetError, OSError."""
    known = read_known(path)
    if location not in known:
        return False
    lines = "".join(f"sha256:{digits} {other}\n" for other, digits in known.items() if other != location)
    private_files.replace(path, lines.encode("utf-8", "surrogateescape"))
    return True


def answers(plain: socket, deadline: float) -> bool:
    """Whether the server on a plain connection answers a TLS ClientHello by ``deadline``. Nothing is verified."""
    hello = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    try:
        plain.settimeout(max(0.1, deadline - time.monotonic()))
        plain.sendall(hello.read())
        return plain.recv(1) in (b"\x15", b"\x16")  # an alert, or a handshake
    except OSError:
        return False
