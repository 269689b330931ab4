"""Whom we believe to be a provider: the one TLS context for all calls, made once a process."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

BEGIN, END = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"


@cache
def tls_context() -> ssl.SSLContext:
    """TLS 1.2 or newer, trusting the system's certificates and certifi's; SSL_CERT_FILE and its like change nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    paths = ssl.get_default_verify_paths()
    cafile = paths.openssl_cafile if Path(paths.openssl_cafile).is_file() else None
    capath = paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None
    if cafile or capath:
        context.load_verify_locations(cafile, capath)
    try:
        import certifi
    except ImportError:
        return context
    # Most of certifi's are the system's too, and each that is read a second time costs as much as the first.
    missing = certificates(certifi.where()) - (certificates(cafile) if cafile else set())
    if missing:
        context.load_verify_locations(cadata="".join(f"{BEGIN}{body}{END}" for body in missing))
    return context


def certificates(path: str) -> set[str]:
    """What stands between the lines that begin and end a certificate, for each in the file."""
    # Names in remarks may be in any encoding; a certificate is ASCII.
    found = Path(path).read_text("ascii", "replace").split(BEGIN)[1:]
    return {body.partition(END)[0] for body in found}


@contextmanager
def without_certificates() -> Iterator[None]:
    """For imports alone: aiohttp makes a context of its own then, of which it loads all certificates and we no use.

    It is made empty: were it ever used after all, it would believe nobody.
    """
    made = ssl.create_default_context
    ssl.create_default_context = lambda *_, **__: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        yield
    finally:
        ssl.create_default_context = made
