"""A certificate of the server's own making, for machines that have none.

Browsers give the microphone to pages from `localhost` and over HTTPS only. A self-made certificate is
enough for that once a person has accepted it; its fingerprint is what they compare.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import ifaddr
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=397)  # the longest that browsers take
RENEWED = datetime.timedelta(days=30)  # this long before its end


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files, and the SHA-256 fingerprint as browsers write it."""

    chain: Path
    key: Path
    fingerprint: str


def own_names(*more: str) -> tuple[str, ...]:
    """What this machine is called: its host name, `localhost`, every address it has, and `more`."""
    addresses = [address.ip for adapter in ifaddr.get_adapters() for address in adapter.ips]
    plain = [address if isinstance(address, str) else address[0] for address in addresses]
    known = {"localhost", "127.0.0.1", "::1", socket.gethostname(), *plain, *more}
    return tuple(sorted(known - {"", "0.0.0.0", "::"}))


def self_made(folder: Path, names: tuple[str, ...]) -> Certificate:
    """The certificate kept in `folder`, so that browsers accept it once; a new one where it is old or lacks a name."""
    chain, key = folder / "certificate.pem", folder / "key.pem"
    made = _kept(chain, key, names) or _make(chain, key, names)
    return Certificate(chain, key, made.fingerprint(hashes.SHA256()).hex(":").upper())


def _kept(chain: Path, key: Path, names: tuple[str, ...]) -> x509.Certificate | None:
    try:
        kept = x509.load_pem_x509_certificate(chain.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        alternatives = kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return None
    fresh = kept.not_valid_after_utc - _now() > RENEWED
    ours = private.public_key() == kept.public_key()
    return kept if fresh and ours and {_general(name) for name in names} <= set(alternatives) else None


def _make(chain: Path, key: Path, names: tuple[str, ...]) -> x509.Certificate:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KDTalker Live, self-made")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(days=1))
        .not_valid_after(_now() + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    chain.parent.mkdir(parents=True, exist_ok=True)
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.unlink(missing_ok=True)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return made


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
