"""Whom we believe to be a provider: the one TLS context for all calls, made once a process."""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

BEGIN, END = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"
HASHED = re.compile(r"[0-9a-f]{8}\.\d+")


@cache
def tls_context() -> ssl.SSLContext:
    """TLS 1.2 or newer, trusting the system's certificates and certifi's; SSL_CERT_FILE and its like change nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    paths = ssl.get_default_verify_paths()
    cafile = paths.openssl_cafile if Path(paths.openssl_cafile).is_file() else None
    capath = paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None
    known = certificates(cafile) if cafile else set()
    if capath:
        # From a folder OpenSSL reads the one that a connection asks for, once; a file it reads whole, for 15 ms.
        context.load_verify_locations(capath=capath)
    if cafile and not (capath and hashed(capath) >= len(known)):
        context.load_verify_locations(cafile)
    # Most of certifi's are the system's too, and each that is read a second time costs as much as the first.
    path = certifis()
    missing = certificates(path) - known if path else set()
    if missing:
        context.load_verify_locations(cadata="".join(f"{BEGIN}{body}{END}" for body in missing))
    return context


def certifis() -> Path | None:
    """The file of the package certifi, found without it: importing that takes three milliseconds.

    None where there is no package, or one of a Linux distribution's, which names the system's file.
    """
    found = find_spec("certifi")
    path = Path(found.origin).with_name("cacert.pem") if found and found.origin else None
    return path if path and path.is_file() else None


def certificates(path: str | Path) -> set[str]:
    """What stands between the lines that begin and end a certificate, for each in the file."""
    # Names in remarks may be in any encoding; a certificate is ASCII.
    found = Path(path).read_text("ascii", "replace").split(BEGIN)[1:]
    return {body.partition(END)[0] for body in found}


def hashed(folder: str) -> int:
    """How many certificates there OpenSSL finds by themselves: their names are a digest of whom they are about."""
    with os.scandir(folder) as entries:
        return sum(1 for entry in entries if HASHED.fullmatch(entry.name) and entry.is_file())


@contextmanager
def without_certificates() -> Iterator[None]:
    """For imports alone: aiohttp makes two contexts of its own then, for which it loads all certificates each time.

    We use neither, and they are made empty: were the first ever used after all, it would believe nobody. The second is
    for those who verify nothing.
    """
    made = ssl.create_default_context
    ssl.create_default_context = lambda *_, **__: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ssl.create_default_context = made
        del ssl.SSLContext.set_default_verify_paths
