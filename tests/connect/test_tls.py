"""TLS to stock servers (PYRO_SSL…): who is trusted, what is refused and why, and that nothing altered gets through."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from farside import FlameServer, Python, random_key, wait_until
from kernels import remote_flame
from other_servers import one_by_one

from flame_kernel.connect import tls
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Location, Secret, Target, Timeouts, load_target
from flame_kernel.connect.tls import Tls
from flame_kernel.errors import CallTimeout, CannotConnect, ConnectionLost, FlameError, TargetError
from flame_kernel.remote.connect import connect
from flame_kernel.serve import certs
from flame_kernel.serve.certs import Authority
from flame_kernel.session.session import Session

Start = Callable[..., FlameServer]

SECONDS = 2.0  # a refusal comes within them


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CAs, ``a`` and ``b``, each with a server's and a client's certificate, and bad ones beside them."""
    root = tmp_path_factory.mktemp("certificates", numbered=True)
    for name in ("a", "b", "expired", "elsewhere"):
        authority = Authority(root / name)
        hosts = ["elsewhere.example"] if name == "elsewhere" else ["localhost", "127.0.0.1"]
        authority.server(hosts, days=-0.02 if name == "expired" else 30)
        authority.client("me")
    _write(root / "alone.pem", *_alone())
    return root


def _write(path: Path, *parts: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(b"".join(parts))


def _alone() -> tuple[bytes, bytes]:
    """A certificate that is signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    return built.public_bytes(form), key.private_bytes(
        form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def speaking_tls(certificate: Path, clients_ca: Path | None = None) -> dict[str, str]:
    """The environment of a stock server that speaks TLS, and demands certificates of ``clients_ca`` if given."""
    environ = {"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": str(certificate)}
    if clients_ca is not None:
        environ |= {"PYRO_SSL_REQUIRECLIENTCERT": "true", "PYRO_SSL_CACERTS": str(clients_ca)}
    return environ


def target(location: str, settings: Tls | None, key: str | None = None, **more: Any) -> Target:
    return Target(Location.parse(location), Secret(key.encode()) if key else None, tls=settings, **more)


def answer(target: Target) -> Any:
    with contextlib.closing(Connection(target)) as connection:
        return connection.call("evaluate", "6 * 7")


def refused(target: Target, cause: str) -> str:
    """The one sentence of a connection that must not come about, in time."""
    began = time.monotonic()
    with pytest.raises(CannotConnect) as caught:
        Connection(target).close()
    assert time.monotonic() - began < SECONDS
    assert caught.value.cause == cause, caught.value
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"cannot reach the flame server at {target.location}: ")
    return text


# --- what is trusted


def test_mutual_tls_with_every_python(each_python: Python, flame_server: Start, made: Path) -> None:
    server = flame_server(each_python, key="k" * 32, env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    settings = Tls(ca=str(made / "a/ca.pem"), certificate=str(made / "a/me.pem"))
    with contextlib.closing(Connection(target(server.location, settings, server.key))) as connection:
        blob = os.urandom(300_000)
        assert connection.call("invokeBuiltin", "bytes", [blob], {}) == blob
        wrapped = connection._channel.socket
        assert isinstance(wrapped, ssl.SSLSocket)
        assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
        assert wrapped.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert len(wrapped.context.get_ca_certs()) == 1  # nobody else is trusted


def test_a_session_on_a_server_that_does_one_thing_at_a_time(flame_server: Start, made: Path) -> None:
    server = flame_server(servertype="multiplex", env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    settings = Tls(ca=str(made / "a/ca.pem"), certificate=str(made / "a/me.pem"))
    events: list[dict[str, Any]] = []
    with contextlib.closing(Session(target(server.location, settings), events.extend)) as session:
        code = "print('x' * 100_000)\nfor i in range(20):\n    print(i)"
        assert session.execute("a", code).result(30)["status"] == "ok"
        text = "".join(event["content"]["text"] for event in events if event["type"] == "stream")
        assert text == "x" * 100_000 + "\n" + "".join(f"{i}\n" for i in range(20))


def test_the_servers_own_certificate_may_be_the_one_that_is_trusted(flame_server: Start, made: Path) -> None:
    for file in ("alone.pem", "a/server.pem"):
        server = flame_server(env=speaking_tls(made / file))
        assert answer(target(server.location, Tls(ca=str(made / file)))) == 42
        assert answer(target(server.location, Tls(pin=certs.fingerprint(made / file)))) == 42


def test_two_servers_with_two_authorities_in_one_process(flame_server: Start, made: Path) -> None:
    first, second = (
        flame_server(env=speaking_tls(made / name / "server.pem", made / name / "ca.pem")) for name in "ab"
    )

    def settings(name: str) -> Tls:
        return Tls(ca=str(made / name / "ca.pem"), certificate=str(made / name / "me.pem"))

    for _ in range(2):
        assert answer(target(first.location, settings("a"))) == answer(target(second.location, settings("b"))) == 42
        refused(target(first.location, settings("b")), "tls_untrusted")
        refused(target(second.location, settings("a")), "tls_untrusted")


def test_a_certificate_under_another_name(flame_server: Start, made: Path) -> None:
    server = flame_server(env=speaking_tls(made / "elsewhere/server.pem"))
    ca = str(made / "elsewhere/ca.pem")
    text = refused(target(server.location, Tls(ca=ca)), "tls_name")
    assert "tls.server_name" in text
    assert answer(target(server.location, Tls(ca=ca, server_name="elsewhere.example"))) == 42
    with pytest.raises(TargetError, match="is not a name that a certificate can have"):
        answer(target(server.location, Tls(ca=ca, server_name=".")))


def test_a_unix_socket_under_tls(made: Path) -> None:
    """Nothing stock does this well, but the way through an ssh tunnel is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "a/server.pem")
    near, far = socket.socketpair()

    def serve() -> None:
        with far, context.wrap_socket(far, server_side=True) as wrapped:
            wrapped.sendall(b"here")

    thread = threading.Thread(target=serve)
    thread.start()
    place = Location(path="/run/flame")
    wrapped, _ = tls.wrap(near, Tls(ca=str(made / "a/ca.pem")), place, time.monotonic() + 5, None)
    with wrapped:
        assert wrapped.recv(4) == b"here"
    thread.join()


# --- what is refused, why, and which setting to change


def test_refused_certificates(flame_server: Start, made: Path) -> None:
    server = flame_server(env=speaking_tls(made / "a/server.pem"))
    assert "tls.ca" in refused(target(server.location, Tls(ca=str(made / "b/ca.pem"))), "tls_untrusted")
    assert "tls.ca" in refused(target(server.location, Tls(ca="system")), "tls_untrusted")
    alone = flame_server(env=speaking_tls(made / "alone.pem"))
    assert "tls.pin" in refused(target(alone.location, Tls(ca=str(made / "a/ca.pem"))), "tls_self_signed")
    expired = flame_server(env=speaking_tls(made / "expired/server.pem"))
    assert "expired" in refused(target(expired.location, Tls(ca=str(made / "expired/ca.pem"))), "tls_expired")


def test_refused_clients(flame_server: Start, made: Path) -> None:
    server = flame_server(env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    ca = str(made / "a/ca.pem")
    assert "tls.certificate" in refused(target(server.location, Tls(ca=ca)), "tls_client_missing")
    for bad in ("b/me.pem", "a/server.pem", "alone.pem"):  # of another CA, a server's, nobody's
        text = refused(target(server.location, Tls(ca=ca, certificate=str(made / bad))), "tls_client_refused")
        assert "PYRO_SSL_CACERTS" in text
    assert answer(target(server.location, Tls(ca=ca, certificate=str(made / "a/me.pem")))) == 42


def test_refused_clients_of_tls_1_2(oldest_python: Python, flame_server: Start, made: Path, tmp_path: Path) -> None:
    """There the server judges within the handshake, and has other words for it."""
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = one\n[one]\nssl_conf = two\n[two]\nsystem_default = three\n[three]\nMaxProtocol = TLSv1.2\n"
    )
    environ = speaking_tls(made / "a/server.pem", made / "a/ca.pem")
    server = flame_server(oldest_python, env={**environ, "OPENSSL_CONF": str(tmp_path / "openssl.cnf")})
    ca = str(made / "a/ca.pem")
    right = target(server.location, Tls(ca=ca, certificate=str(made / "a/me.pem")))
    with contextlib.closing(Connection(right)) as connection:
        assert isinstance(connection._channel.socket, ssl.SSLSocket)
        assert connection._channel.socket.version() == "TLSv1.2"
    refused(target(server.location, Tls(ca=ca)), "tls_client_missing")
    for bad in ("b/me.pem", "a/server.pem"):
        refused(target(server.location, Tls(ca=ca, certificate=str(made / bad))), "tls_client_refused")


def test_a_server_without_tls(flame_server: Start, made: Path) -> None:
    """Who says TLS does not get less."""
    server = flame_server()
    text = refused(target(server.location, Tls(ca=str(made / "a/ca.pem"))), "tls_plain")
    assert "PYRO_SSL=true" in text
    refused(target(server.location, Tls(verify=False)), "tls_plain")


def test_a_tls_server_reached_plainly(flame_server: Start, made: Path) -> None:
    server = flame_server(env=speaking_tls(made / "a/server.pem"))
    assert "--tls-ca" in refused(target(server.location, None), "tls")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_a_server_of_old_tls(made: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(made / "a/server.pem")

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(1)

    with one_by_one(handle) as location:
        text = refused(target(location, Tls(ca=str(made / "a/ca.pem"))), "tls_version")
    assert "TLS 1.2" in text


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls_plain"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "tls_plain"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "tls_failed"),
        (b"", "closed"),
    ],
    ids=["web", "ssh", "alert", "nothing"],
)
def test_other_servers_under_tls(said: bytes, cause: str, made: Path) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)

    with one_by_one(handle) as location:
        refused(target(location, Tls(ca=str(made / "a/ca.pem"))), cause)


def test_a_server_that_says_nothing(made: Path) -> None:
    stop = threading.Event()
    with one_by_one(lambda connection: bool(stop.wait(10)) and None) as location:  # type: ignore[arg-type, return-value]
        wanted = target(location, Tls(ca=str(made / "a/ca.pem")), timeouts=Timeouts(connect=0.3))
        assert "TLS handshake" in refused(wanted, "timeout")
        stop.set()


# --- first contacts


def test_the_first_contact_is_asked_once_and_a_changed_one_refused(
    flame_server: Start, made: Path, tmp_path: Path
) -> None:
    server = flame_server(env=speaking_tls(made / "a/server.pem"))
    port = int(server.location.rpartition(":")[2])
    shown = tls.shown_pin(certs.fingerprint(made / "a/server.pem"))
    known = tmp_path / "config" / "known"
    settings = Tls(known=known)
    questions: list[str] = []

    def says(word: str | None) -> Callable[[str, bool], str | None]:
        def ask(prompt: str, password: bool) -> str | None:
            questions.append(prompt)
            assert not password
            return word

        return ask

    assert shown in refused(target(server.location, settings), "tls_unknown")
    for word in ("no", "", None):
        assert shown in refused(target(server.location, settings, ask=says(word)), "tls_unknown")
    assert not known.exists()
    questions.clear()
    assert answer(target(server.location, settings, ask=says("yes"))) == 42
    assert len(questions) == 1
    assert shown in questions[0]
    assert server.location in questions[0]
    assert (known.stat().st_mode & 0o777, known.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert answer(target(server.location, settings)) == 42
    assert answer(target(server.location, settings, ask=says("no"))) == 42
    assert len(questions) == 1

    server.stop()
    other = flame_server(env=speaking_tls(made / "b/server.pem"), arguments=("-p", str(port)))
    assert other.location == server.location
    for before in (settings, Tls(known=known)):  # one that has met the first server, one that reads of it
        text = refused(target(other.location, before, ask=says("yes")), "tls_changed")
    assert shown in text
    assert tls.shown_pin(certs.fingerprint(made / "b/server.pem")) in text
    assert len(questions) == 1  # it is not asked whether that is all right
    assert tls.forget(known, other.location)
    assert not tls.forget(known, other.location)
    assert answer(target(other.location, Tls(known=known), ask=says("yes"))) == 42
    # What was met once in this process stays known, and nothing is asked when a link heals.
    held = target(other.location, Tls(known=known), ask=says("no"))
    assert answer(held) == 42
    known.write_text("nonsense\n")
    assert answer(held) == 42
    assert len(questions) == 2
    with pytest.raises(TargetError, match="line 1"):
        answer(target(other.location, Tls(known=known)))
    known.chmod(0o644)
    with pytest.raises(TargetError, match="chmod 600"):
        answer(target(other.location, Tls(known=known)))


def test_a_pin_that_is_another(flame_server: Start, made: Path) -> None:
    server = flame_server(env=speaking_tls(made / "a/server.pem"))
    right = certs.fingerprint(made / "a/server.pem")
    for form in (right, f"sha256:{right}", f"SHA256 Fingerprint={tls.shown_pin(right)}", tls.shown_pin(right)):
        assert answer(target(server.location, Tls(pin=form))) == 42
    refused(target(server.location, Tls(pin="0" * 64)), "tls_changed")
    for bad in ("", "12", "g" * 64, right[:-1]):
        with pytest.raises(TargetError, match="64 hex digits"):
            Tls(pin=bad)


def test_without_verification_only_when_it_is_said_and_with_a_warning(flame_server: Start, made: Path) -> None:
    server = flame_server(env=speaking_tls(made / "expired/server.pem"))
    open_ = target(server.location, Tls(verify=False))
    assert answer(open_) == 42
    assert "does not check the certificate" in " ".join(open_.cautions())
    assert not open_.is_authenticated
    for settings in ({"ca": "x"}, {"pin": "0" * 64}):
        with pytest.raises(TargetError, match="more than one of ca"):
            Tls(verify=False, **settings)  # type: ignore[arg-type]


# --- files


def test_files_that_are_no_use(flame_server: Start, made: Path, tmp_path: Path) -> None:
    server = flame_server(env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    ca = str(made / "a/ca.pem")
    plain = (made / "a/me.pem").read_bytes()
    certificate, key = plain.split(b"-----BEGIN PRIVATE KEY", 1)
    _write(tmp_path / "cert", certificate)
    _write(tmp_path / "key", b"-----BEGIN PRIVATE KEY", key)
    _write(tmp_path / "open.pem", plain)
    (tmp_path / "open.pem").chmod(0o644)
    _write(tmp_path / "text", b"hello")
    _write(tmp_path / "other", _alone()[1])
    here = {name: str(tmp_path / name) for name in ("cert", "key", "open.pem", "text", "other", "none")}
    assert answer(target(server.location, Tls(ca=ca, certificate=here["cert"], key_file=here["key"]))) == 42
    for settings, says in (
        (Tls(ca=here["none"]), "No such file"),
        (Tls(ca=here["text"]), "holds no PEM certificate"),
        (Tls(ca=ca, certificate=here["open.pem"]), "chmod 600"),
        (Tls(ca=ca, certificate=here["cert"]), "no PEM certificate with its private key"),
        (Tls(ca=ca, certificate=here["text"]), "no PEM certificate with its private key"),
        (Tls(ca=ca, certificate=here["cert"], key_file=here["other"]), "belongs to another certificate"),
        (Tls(ca=ca, certificate=here["cert"], key_file=here["none"]), "No such file"),
    ):
        with pytest.raises(TargetError, match=says) as caught:
            answer(target(server.location, settings))
        assert "\n" not in str(caught.value)
    with pytest.raises(TargetError, match="without a certificate"):
        Tls(key_file=here["key"])
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(TargetError, match="chmod 600"):
        answer(target(server.location, Tls(ca=ca, certificate=here["cert"], key_file=here["key"])))


def test_a_key_with_a_passphrase(flame_server: Start, made: Path, tmp_path: Path) -> None:
    server = flame_server(env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    raw = (made / "a/me.pem").read_bytes()
    key = serialization.load_pem_private_key(raw, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    path = tmp_path / "me.pem"
    _write(path, raw.split(b"-----BEGIN PRIVATE KEY", 1)[0], locked)

    def settings() -> Tls:
        return Tls(ca=str(made / "a/ca.pem"), certificate=str(path))

    asked: list[tuple[str, bool]] = []

    def ask(prompt: str, password: bool) -> str:
        asked.append((prompt, password))
        return "open sesame"

    once = target(server.location, settings(), ask=ask)
    assert answer(once) == answer(once) == 42
    assert asked == [(f"Passphrase of {path}: ", True)]
    with pytest.raises(TargetError, match="wants a passphrase, and none is given"):
        answer(target(server.location, settings()))
    with pytest.raises(TargetError, match="the passphrase is wrong"):
        answer(target(server.location, settings(), ask=lambda prompt, password: "guess"))


def test_authorities(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    first = authority.certificate.read_bytes()
    server = authority.server(["host.example", "::1"])
    client = authority.client("me")
    for path in (*authority.folder.iterdir(), server, client):
        assert path.stat().st_mode & 0o777 == 0o600
    assert authority.folder.stat().st_mode & 0o777 == 0o700
    assert Authority(tmp_path / "ca").certificate.read_bytes() == first  # the one that is there
    certificate = x509.load_pem_x509_certificate(server.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["host.example"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["::1"]
    before = client.read_bytes()
    for make, says in (
        (lambda: authority.server([]), "give a host"),
        (lambda: authority.server(["a b"]), "usable host name"),
        (lambda: authority.server(["x"]), "exists already"),
        (lambda: authority.client("me"), "exists already"),
        (lambda: authority.client("ca"), "not a usable name"),
        (lambda: authority.client("../me"), "not a usable name"),
        (lambda: certs.fingerprint(tmp_path / "ca" / "ca.key"), "no PEM certificate"),
    ):
        with pytest.raises(TargetError, match=says):
            make()
    assert client.read_bytes() == before
    authority.client("me", replace=True)
    assert client.read_bytes() != before
    (tmp_path / "ca" / "ca.key").chmod(0o644)
    with pytest.raises(TargetError, match="chmod 600"):
        authority.client("you")
    (tmp_path / "ca").chmod(0o755)
    with pytest.raises(TargetError, match="chmod 700"):
        Authority(tmp_path / "ca")


# --- somebody in between


class _Flipping:
    """Passes on between a client and a server, and flips one bit: of byte ``at`` in the direction ``upwards``."""

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.location = f"localhost:{self._listener.getsockname()[1]}"
        self.upwards, self.at, self.bit = True, -1, 0
        self.sizes: dict[bool, int] = {}
        self.headers: dict[bool, set[int]] = {}  # offsets of the bytes of a record's version, which mean nothing
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(self._server) as server:
                ways = [
                    threading.Thread(target=self._pass, args=(client, server, True)),
                    threading.Thread(target=self._pass, args=(server, client, False)),
                ]
                for way in ways:
                    way.start()
                for way in ways:
                    way.join()

    def _pass(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        position, record = 0, 0
        self.headers[upwards] = set()
        whole = bytearray()
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                whole += data
                while record + 5 <= len(whole):
                    self.headers[upwards] |= {record + 1, record + 2}
                    record += 5 + int.from_bytes(whole[record + 3 : record + 5], "big")
                here = self.at - position
                if upwards == self.upwards and 0 <= here < len(data):
                    data[here] ^= 1 << self.bit
                position += len(data)
                sink.sendall(data)
        self.sizes[upwards] = position
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


# Every byte in its turn takes a minute and a half (``FLAME_FUZZ=full``); a usual run has some of them.
STEP = 1 if os.environ.get("FLAME_FUZZ") == "full" else 31


@pytest.mark.timeout(240)
def test_a_bit_flipped_anywhere_is_an_error(flame_server: Start, made: Path) -> None:
    """Bytes of a whole conversation, handshake and one call, in both directions."""
    server = flame_server(env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    settings = Tls(ca=str(made / "a/ca.pem"), certificate=str(made / "a/me.pem"))
    with contextlib.closing(_Flipping(server.location)) as between:
        assert answer(target(between.location, settings)) == 42
        sizes = wait_until(lambda: len(between.sizes) == 2 and dict(between.sizes), "the end of the conversation")
        assert min(sizes.values()) > 500
        passed = 0
        for upwards in (True, False):
            end = sizes[upwards] - 40  # a farewell, which comes behind the answer
            for at in itertools.chain(range(12), range(12, end, STEP)):
                between.upwards, between.at, between.bit = upwards, at, (3 * at + at // 8) % 8
                began = time.monotonic()
                try:
                    value = answer(target(between.location, settings, timeouts=Timeouts(connect=1.0, call=1.0)))
                except (CannotConnect, ConnectionLost):
                    pass
                else:
                    assert value == 42
                    assert at in between.headers[upwards], f"byte {at} {'up' if upwards else 'down'} may be changed"
                    passed += 1
                assert time.monotonic() - began < 5
        assert passed <= sum(map(len, between.headers.values()))
        between.at = -1
        assert answer(target(between.location, settings)) == 42


def test_a_link_that_is_cut_or_spoilt_later(flame_server: Start, made: Path) -> None:
    """A call under way ends with an error of ours, and nothing that is left of TLS is read as if it were plain."""
    server = flame_server(env=speaking_tls(made / "a/server.pem"))
    settings = Tls(ca=str(made / "a/ca.pem"))
    with contextlib.closing(Connection(target(server.location, settings))) as connection:
        timer = threading.Timer(0.2, connection.abort)
        timer.start()
        with pytest.raises(ConnectionLost, match="aborted"):
            connection.call("evaluate", "__import__('time').sleep(5)")
        timer.join()
        assert isinstance(connection._channel.socket, ssl.SSLSocket)
    with (
        contextlib.closing(Connection(target(server.location, settings))) as connection,
        pytest.raises(CallTimeout),
    ):
        connection.call("evaluate", "__import__('time').sleep(5)", timeout=0.3)
    with contextlib.closing(Connection(target(server.location, settings))) as connection:
        timer = threading.Timer(0.2, server.process.kill)
        timer.start()
        with pytest.raises(ConnectionLost):
            connection.call("evaluate", "__import__('time').sleep(5)")
        timer.join()


def test_proxies_of_the_environment_are_not_asked(
    flame_server: Start, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The way is the one that the target names."""
    asked: list[bytes] = []
    secured, plain = flame_server(env=speaking_tls(made / "a/server.pem")), flame_server()
    with one_by_one(lambda connection: asked.append(connection.recv(100))) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SOCKS_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}")
        log = tmp_path / "keys.log"
        monkeypatch.setenv("SSLKEYLOGFILE", str(log))
        assert answer(target(secured.location, Tls(ca=str(made / "a/ca.pem")))) == 42
        assert answer(target(plain.location, None)) == 42
    assert not asked
    assert not log.exists()


# --- as users say it


def test_through_the_kernel(flame_server: Start, made: Path, key_file: Callable[[str], Path], tmp_path: Path) -> None:
    key = random_key()
    server = flame_server(key=key, env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    other = flame_server(env=speaking_tls(made / "b/server.pem"))
    config = tmp_path / "config"
    config.mkdir()
    with remote_flame(env={"JUPYTER_CONFIG_DIR": str(config)}) as k:
        plain = k.execute(f"%flame connect {server.location} --key-file {key_file(key)}")
        assert plain.error is not None
        assert "--tls-ca" in plain.error["evalue"]
        options = f"--key-file {key_file(key)} --tls-ca {made}/a/ca.pem --tls-cert {made}/a/me.pem"
        run = k.execute(f"%flame connect {server.location} {options}\nimport os; os.getppid()")
        assert run.result == str(server.pid)
        # A first contact, asked at the cell's own prompt.
        run = k.execute(f"%flame connect {other.location} --tls\nimport os; os.getppid()", answers=("yes",))
        assert run.result == str(other.pid)
        (prompt,) = run.prompts
        assert tls.shown_pin(certs.fingerprint(made / "b/server.pem")) in prompt[0]
        assert k.execute(f"%flame connect {server.location} {options}").error is None
        run = k.execute(f"%flame connect {other.location} --tls\n1")
        assert (run.result, run.prompts) == ("1", [])
        run = k.execute(f"%flame connect {other.location} --tls-no-verify\n2")
        assert run.result == "2"
        assert "does not check the certificate" in run.stderr
        assert key not in k.log_text()


def test_from_a_script(flame_server: Start, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = flame_server(key="k" * 32, env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    settings = {"ca": str(made / "a/ca.pem"), "certificate": str(made / "a/me.pem")}
    with connect(server.location, key="k" * 32, tls=settings) as remote:
        assert remote.evaluate("6 * 7") == 42
    assert capsys.readouterr().err == ""
    del settings["ca"]
    with connect(server.location, key="k" * 32, tls={**settings, "verify": False}) as remote:
        assert remote.evaluate("6 * 7") == 42
    assert "Warning: TLS to localhost" in capsys.readouterr().err
    with pytest.raises(TargetError, match="is empty"):
        connect(server.location, key=Secret(b""), tls=settings)


def test_from_the_file_of_targets(flame_server: Start, made: Path, tmp_path: Path) -> None:
    key = random_key()
    server = flame_server(key=key, env=speaking_tls(made / "a/server.pem", made / "a/ca.pem"))
    for name, source in (("ca.pem", "a/ca.pem"), ("me.pem", "a/me.pem")):
        _write(tmp_path / name, (made / source).read_bytes())
    _write(tmp_path / "key", key.encode())
    file = tmp_path / "targets.toml"
    _write(
        file,
        f'[targets.plant]\nlocation = "{server.location}"\nkey_file = "key"\n'.encode(),
        b'tls = { ca = "ca.pem", certificate = "me.pem" }\n',
    )
    # By its name, and by its location: what protects the server is not left out.
    for name in ("plant", server.location):
        assert answer(load_target(name, environ={"FLAME_CONFIG": str(file)}, config_dir=tmp_path)) == 42
    with pytest.raises(FlameError, match="more than one of ca"):
        load_target("plant", environ={}, config_dir=tmp_path, overrides={"tls": {"verify": False}})
