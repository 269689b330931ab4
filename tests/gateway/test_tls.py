"""Whom we believe to be a provider, and how little is read to know it."""

import hashlib
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import certifi
import pytest
import trustme
from cryptography import x509

from gateway.errors import UpstreamUnreachable
from gateway.upstream import tls
from gateway.upstream.client import Upstream
from providers.addresses import AddressPolicy
from tests.gateway.house import LIMIT
from tests.gateway.test_upstream_faults import call
from tests.scripted import ScriptedUpstream


def hashed_name(ca: trustme.CA) -> str:
    """As `openssl rehash` names its file: SHA-1 of the subject in lower case, without the frame around it."""
    subject = x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject
    lower = x509.Name([x509.NameAttribute(part.oid, str(part.value).lower()) for part in subject])
    encoded = lower.public_bytes()
    assert encoded[1] < 128  # one byte says how long it is
    return f"{int.from_bytes(hashlib.sha1(encoded[2:]).digest()[:4], 'little'):08x}.0"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where OpenSSL of this system would look: a file and a folder, both not there yet."""
    paths = ssl.get_default_verify_paths()._replace(
        openssl_cafile=str(tmp_path / "all.pem"), openssl_capath=str(tmp_path / "certs")
    )
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    return tmp_path


def put(system: Path, file: list[trustme.CA], folder: list[trustme.CA]) -> None:
    (system / "all.pem").write_bytes(b"".join(ca.cert_pem.bytes() for ca in file))
    (system / "certs").mkdir()
    for ca in folder:
        (system / "certs" / f"{hashed_name(ca)[:8]}.pem").write_bytes(ca.cert_pem.bytes())
        (system / "certs" / hashed_name(ca)).symlink_to(f"{hashed_name(ca)[:8]}.pem")


def in_memory(context: ssl.SSLContext, *cas: trustme.CA) -> list[bool]:
    known = context.get_ca_certs(binary_form=True)
    return [ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode()) in known for ca in cas]


async def is_called(context: ssl.SSLContext, ca: trustme.CA) -> bool:
    """Whether a provider with a certificate of that authority's sees a request."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    upstream = Upstream(AddressPolicy([], development=True), limit=LIMIT, tls=lambda: context)
    async with ScriptedUpstream(tls=server) as provider:
        with suppress(UpstreamUnreachable):
            assert await call(upstream, provider.url) == b"{}"
        await upstream.aclose()
    return len(provider.requests) == 1


async def test_of_the_systems_folder_only_the_one_that_a_connection_asks_for_is_read(system: Path) -> None:
    used, unused = trustme.CA(organization_name="Used"), trustme.CA(organization_name="Unused")
    put(system, [used, unused], [used, unused])
    context = tls.tls_context.__wrapped__()
    assert in_memory(context, used, unused) == [False, False]
    assert await is_called(context, used)
    assert in_memory(context, used, unused) == [True, False]
    assert not await is_called(context, trustme.CA(organization_name="Stranger"))


async def test_what_stands_in_the_systems_file_alone_is_believed_too(system: Path) -> None:
    both, added = trustme.CA(organization_name="Both"), trustme.CA(organization_name="Added")
    put(system, [both, added], [both])
    context = tls.tls_context.__wrapped__()
    assert in_memory(context, both, added) == [True, True]
    assert await is_called(context, added)


async def test_a_folder_whose_links_lead_nowhere_does_not_stand_for_the_file(system: Path) -> None:
    ca = trustme.CA()
    put(system, [ca], [ca])
    (system / "certs" / f"{hashed_name(ca)[:8]}.pem").unlink()
    assert await is_called(tls.tls_context.__wrapped__(), ca)


@pytest.mark.parametrize("missing", ["all.pem", "certs"])
async def test_a_system_may_have_one_of_the_two_only(system: Path, missing: str) -> None:
    ca = trustme.CA()
    put(system, [ca], [ca])
    (system / missing).rename(system / "elsewhere")
    assert await is_called(tls.tls_context.__wrapped__(), ca)


def test_whom_certifi_trusts_is_trusted_and_none_is_read_twice(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = ssl.SSLContext.load_verify_locations

    def reading(context: Any, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        read.extend(tls.certificates(cafile) if cafile else ())
        read.extend((cadata or "").split(tls.BEGIN)[1:])
        load(context, cafile, capath, cadata)

    whole = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    whole.load_verify_locations(certifi.where())
    own = trustme.CA()
    theirs = sorted(tls.certificates(certifi.where()))[:50]
    both = "".join(f"{tls.BEGIN}{body}{tls.END}" for body in theirs)
    (system / "all.pem").write_text(both + own.cert_pem.bytes().decode())
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", reading)
    made = tls.tls_context.__wrapped__()
    assert len(read) == len(whole.get_ca_certs()) + 1 > 50
    known = {ssl.PEM_cert_to_DER_cert(own.cert_pem.bytes().decode()), *whole.get_ca_certs(binary_form=True)}
    assert set(made.get_ca_certs(binary_form=True)) == known


def test_without_certifi_the_systems_are_all(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = trustme.CA()
    (system / "all.pem").write_bytes(ca.cert_pem.bytes())
    monkeypatch.setattr(tls, "find_spec", lambda name: None)
    assert len(tls.tls_context.__wrapped__().get_ca_certs()) == 1
