"""A certificate authority for one sandbox: its guest trusts it, the proxy signs with it, and no cell has its key.

The supervisor makes it and gives it to the proxy; a cell finds the certificate alone (`bundles`). Certificates are made
with `cryptography`, an optional dependency, because OpenSSL's own calls for that are not in the standard library.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..errors import EnforcementError

if TYPE_CHECKING:
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

#: How long an authority is valid (days), and a host's certificate; that one is made again after a day.
_AUTHORITY_DAYS, _HOST_DAYS, _AGAIN_S = 3650, 7, 86400.0
#: Clocks that are wrong by less find a new certificate valid.
_EARLIER_DAYS = 1
#: Certificates that are kept for one sandbox.
_MOST_HOSTS = 256


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """An authority's certificate and its key, both PEM."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "<Authority>"


def new_authority(name: str) -> Authority:
    """Return a new authority for a sandbox. Raises EnforcementError without `cryptography`."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise EnforcementError(
            f"open TLS of sandbox {name!r}: cryptography cannot be imported ({error})",
            missing="cryptography",
            hint="pip install 'pyisolate-kernel[tls]', or take inspect_tls out of the policy",
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    about = _subject(f"pyisolate sandbox {name}")
    made = (
        _builder(about, about, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Authority(certificate=made.public_bytes(pem).decode(), key=private.decode())


def load() -> None:
    """Import all that certificates take, by making one: before files are out of reach. Nothing without `cryptography`.

    What is imported only where it is used would be missing for a proxy whose user may not read the interpreter's files.
    """
    with contextlib.suppress(EnforcementError):
        Issuer(new_authority("of nothing")).context("host.invalid")


class _Made(NamedTuple):
    context: ssl.SSLContext
    at: float


class Issuer:
    """Makes certificates of hosts for one sandbox, in the proxy's process."""

    def __init__(self, authority: Authority) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        self._certificate = x509.load_pem_x509_certificate(authority.certificate.encode())
        key = serialization.load_pem_private_key(authority.key.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key, self._own = key, ec.generate_private_key(ec.SECP256R1())
        self._made: dict[str, _Made] = {}

    def context(self, host: str) -> ssl.SSLContext:
        """Return what the proxy answers a handshake for `host` with."""
        known = self._made.pop(host, None)
        if known is None or time.monotonic() - known.at > _AGAIN_S:
            known = _Made(self._context(host), time.monotonic())
        self._made[host] = known
        if len(self._made) > _MOST_HOSTS:
            del self._made[next(iter(self._made))]
        return known.context

    def _context(self, host: str) -> ssl.SSLContext:
        import ssl

        from cryptography.hazmat.primitives import serialization

        pem, certificate = serialization.Encoding.PEM, self._certificate_of(host)
        private = self._own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        # OpenSSL reads them from a file only; this one is memory
        file = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(file, private + certificate.public_bytes(pem))
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        return context

    def _certificate_of(self, host: str) -> x509.Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        issuer = self._certificate
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _builder(_subject(host), issuer.subject, self._own.public_key(), _HOST_DAYS)
            .add_extension(x509.SubjectAlternativeName([_name(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._own.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _subject(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text[:64])])  # RFC 5280, ub-common-name


def _name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    import datetime

    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=_EARLIER_DAYS))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
