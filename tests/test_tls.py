"""HTTPS: a certificate of the server's own, kept, checked and good enough for a microphone."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from server.settings import Settings
from server.tls import own_names, self_made
from tests.browser import ALLOW, launch, playwright
from tests.conftest import start_server, stop_server

pytestmark = pytest.mark.timeout(240)


def test_a_certificate_is_kept_until_a_name_is_missing(tmp_path: Path) -> None:
    first = self_made(tmp_path, ("localhost", "127.0.0.1"))
    assert self_made(tmp_path, ("127.0.0.1",)) == first
    second = self_made(tmp_path, ("127.0.0.1", "avatar.test"))
    assert second.fingerprint != first.fingerprint
    assert first.key.stat().st_mode & 0o077 == 0
    first.key.write_bytes(b"damaged")
    assert self_made(tmp_path, ("127.0.0.1",)).fingerprint != second.fingerprint


def test_a_key_of_another_certificate_is_noticed(tmp_path: Path) -> None:
    one, two = self_made(tmp_path / "one", ("a.test",)), self_made(tmp_path / "two", ("a.test",))
    one.key.write_bytes(two.key.read_bytes())
    assert self_made(tmp_path / "one", ("a.test",)).fingerprint != one.fingerprint


def test_the_fingerprint_is_the_one_that_browsers_show(tmp_path: Path) -> None:
    made = self_made(tmp_path, own_names("192.0.2.9"))
    loaded = x509.load_pem_x509_certificate(made.chain.read_bytes())
    assert made.fingerprint.replace(":", "").lower() == loaded.fingerprint(hashes.SHA256()).hex()
    assert {"localhost", "127.0.0.1", "192.0.2.9", socket.gethostname()} <= set(own_names("192.0.2.9"))


@pytest.mark.parametrize(
    "wrong", [{"tls_cert": "a"}, {"tls_key": "a"}, {"tls_cert": "a", "tls_key": "b", "self_signed": True}]
)
def test_half_a_certificate_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tls_cert"):
        Settings(**wrong)


def test_a_page_from_another_name_gets_the_microphone_over_https(tmp_path: Path) -> None:
    """Chromium, a name that is not localhost, and a certificate that it is told to accept."""
    own = start_server(tmp_path, self_signed="true")
    try:
        certificate = tmp_path.parent / "cache" / "tls" / "certificate.pem"
        trusting = ssl.create_default_context(cafile=str(certificate))
        assert own.url.startswith("https://")
        assert httpx.get(f"{own.url}/healthz", verify=trusting).text == "alive\n"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{own.url}/healthz")
        made = x509.load_pem_x509_certificate(certificate.read_bytes())
        assert made.fingerprint(hashes.SHA256()).hex(":").upper() in own.log.read_text()
        with playwright() as driver:
            browser = launch(driver, ALLOW, "--host-resolver-rules=MAP avatar.test 127.0.0.1")
            page = browser.new_page(ignore_https_errors=True)
            page.goto(own.url.replace("127.0.0.1", "avatar.test"))
            assert page.evaluate("window.isSecureContext")
            page.wait_for_selector("body[data-state=idle]")
            page.click("#call")
            page.wait_for_selector("video.shown", timeout=60_000)
            browser.close()
    finally:
        stop_server(own)


def test_files_that_are_no_certificate_are_named(tmp_path: Path) -> None:
    from engines.types import KDTalkerError
    from server.app import serve

    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(KDTalkerError, match=r"c\.pem"):
        serve(Settings(tls_cert=tmp_path / "c.pem", tls_key=tmp_path / "k.pem"))
