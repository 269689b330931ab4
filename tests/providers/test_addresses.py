"""Base URLs as operators write them, and the addresses that may be called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.addresses import SETTING, AddressError, AddressPolicy, AddressRefused, normalise, origin

STRICT = AddressPolicy([], development=False)
DEVELOPMENT = AddressPolicy([], development=True)


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("https://api.x.com", "https://api.x.com/v1"),
        ("https://api.x.com/", "https://api.x.com/v1"),
        ("https://api.x.com///", "https://api.x.com/v1"),
        ("https://api.x.com/v1", "https://api.x.com/v1"),
        ("https://api.x.com/v1/", "https://api.x.com/v1"),
        ("https://api.x.com/v1/v1", "https://api.x.com/v1"),
        ("https://api.x.com/v1/v1/v1/", "https://api.x.com/v1"),
        (" https://API.X.com:443/v1 ", "https://api.x.com/v1"),
        ("https://api.x.com./v1", "https://api.x.com/v1"),
        ("https://api.x.com:8443", "https://api.x.com:8443/v1"),
        ("HTTP://127.0.0.1:80/v1", "http://127.0.0.1/v1"),
        ("http://[0:0::1]:9000", "http://[::1]:9000/v1"),
        ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
        ("https://openrouter.ai/api/v1/", "https://openrouter.ai/api/v1"),
        ("https://g.example.com/v1beta/openai/", "https://g.example.com/v1beta/openai"),
        ("https://api.fireworks.ai/inference/v1", "https://api.fireworks.ai/inference/v1"),
        ("https://s.example.com/t1/deployments/v2/llms/d/v1", "https://s.example.com/t1/deployments/v2/llms/d/v1"),
        ("https://api.x.com/V1beta", "https://api.x.com/V1beta"),
    ],
)
def test_a_base_url_is_stored_in_one_form(written: str, stored: str) -> None:
    assert normalise(written, bare_path="/v1") == stored
    assert normalise(stored, bare_path="/v1") == stored


def test_a_bare_host_stays_bare_where_the_dialect_has_no_v1() -> None:
    assert normalise("https://me.openai.azure.com/") == "https://me.openai.azure.com"
    assert normalise("https://me.openai.azure.com/openai/v1/") == "https://me.openai.azure.com/openai/v1"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "Give the base URL"),
        ("api.x.com/v1", "Write the scheme too: https://api.x.com/v1"),
        ("//api.x.com/v1", "Write the scheme too: https://api.x.com/v1"),
        ("localhost:11434", "Write the scheme too"),
        ("javascript:alert(1)", "Write the scheme too"),
        ("javascript://x/%0aalert(1)", "must begin with https://"),
        ("ftp://api.x.com/v1", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("https://user:pw@api.x.com/v1", "No user name"),
        ("https://@api.x.com/v1", "No user name"),
        ("https://api.x.com/v1?key=1", "No ? or #"),
        ("https://api.x.com/v1?", "No ? or #"),
        ("https://api.x.com/v1#a", "No ? or #"),
        ("https://api.x.com/{tenant_id}/v1", "Fill in {tenant_id}"),
        ("https://api.x.com/a b", "no spaces"),
        ("https://api.x.com\\@evil.com/", "backslashes"),
        ("https://api.x.com/v1\r\nhost: evil", "no spaces"),
        ("https://api.x.com/../admin", "not plain"),
        ("https://api.x.com/%2E%2e/admin", "not plain"),
        ("https://api.x.com/v1%2f..%2fadmin", "not plain"),
        ("https://api.x.com//v1", "not plain"),
        ("https://api.x.com/ü", "not plain"),
        ("https://äpi.x.com/v1", "not a plain name"),
        ("https://１２７.0.0.1/v1", "not a plain name"),
        ("https://-x.com/v1", "not a plain name"),
        ("https://a..b/v1", "not a plain name"),
        ("https:///v1", "not a plain name"),
        ("https://api.x.com:99999/v1", "cannot be read"),
        ("https://api.x.com:abc/v1", "cannot be read"),
        ("https://api.x.com:0/v1", "Port 0"),
        ("https://[::1/v1", "cannot be read"),
        ("https://[fe80::1%25eth0]/v1", "zone"),
        ("https://api.x.com/v1/chat/completions", "leave out /chat/completions"),
    ],
)
def test_what_is_wrong_with_a_base_url_is_said(written: str, said: str) -> None:
    with pytest.raises(AddressError) as caught:
        normalise(written, bare_path="/v1")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.x.com/v1", "https://api.x.com:443"),
        ("https://API.x.com:443/other", "https://api.x.com:443"),
        ("http://127.0.0.1/v1", "http://127.0.0.1:80"),
        ("http://[::1]:9000/v1", "http://[::1]:9000"),
    ],
)
def test_the_origin_always_names_its_port(url: str, expected: str) -> None:
    assert origin(url) == expected


REFUSED_URLS = """
https://127.0.0.1 https://127.1 https://127.0.1 https://0x7f.1 https://0x7f000001 https://2130706433
https://017700000001 https://0177.0.0.1 https://127.0.0.01 https://127.0.0.1. https://127.255.255.254 https://0.0.0.0
https://0 https://0x https://10.0.0.1 https://10.255.255.255 https://172.16.0.1 https://172.31.255.255
https://192.168.0.1 https://100.64.0.1 https://100.127.255.255 https://169.254.1.1 https://169.254.169.254
https://169.254.170.2 https://2852039166 https://0xa9fea9fe https://0251.0376.0251.0376 https://192.0.0.1
https://192.0.2.1 https://198.18.0.1 https://198.51.100.1 https://203.0.113.1 https://192.88.99.1 https://224.0.0.1
https://239.255.255.255 https://240.0.0.1 https://255.255.255.255 https://[::1] https://[::]
https://[::ffff:127.0.0.1] https://[::ffff:a9fe:a9fe] https://[::ffff:8.8.8.8] https://[::127.0.0.1]
https://[64:ff9b::a9fe:a9fe] https://[64:ff9b::808:808] https://[64:ff9b:1::1] https://[2002:7f00:1::]
https://[2002:808:808::1] https://[2001:0:1::1] https://[2001:db8::1] https://[fe80::1] https://[fc00::1]
https://[fd00:ec2::254] https://[fd12:3456::1] https://[ff02::1] https://[100::1] https://[fec0::1] https://[3fff::1]
https://[5f00::1] https://localhost https://localhost. https://LOCALHOST https://a.localhost https://127.0.0.1.nip.io
https://10-0-0-1.sslip.io https://localtest.me https://metadata https://metadata.google.internal
https://instance-data.ec2.internal https://printer.local https://ollama https://u@127.0.0.1 https://u:p@api.x.com
http://8.8.8.8 http://api.x.com http://[2606:4700::1111] https://168.63.129.16 https://100.100.100.200
"""


@pytest.mark.parametrize("url", REFUSED_URLS.split())
def test_private_odd_and_plain_addresses_are_refused_at_save_with_an_empty_allow_list(url: str) -> None:
    with pytest.raises(AddressError):
        STRICT.check_url(f"{url}/v1")


def test_the_refusal_names_the_setting_and_what_to_put_there() -> None:
    with pytest.raises(AddressRefused, match=rf"{SETTING} allows it: add 10.0.0.5:443 there"):
        STRICT.check_url("https://10.0.0.5/v1")
    with pytest.raises(AddressRefused, match=rf"Plain http.*{SETTING}.*add \[::1\]:8000 there"):
        STRICT.check_url("http://[::1]:8000/v1")


@pytest.mark.parametrize("url", ["https://api.x.com/v1", "https://8.8.8.8/v1", "https://[2606:4700::1111]/v1"])
def test_public_addresses_over_https_are_always_fine(url: str) -> None:
    STRICT.check_url(url)


REFUSED_IPS = """
127.0.0.1 127.9.9.9 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 169.254.0.1 169.254.169.254
169.254.170.2 192.0.0.192 198.19.255.255 224.0.0.251 255.255.255.255 ::1 :: ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::8.8.8.8
64:ff9b::8.8.8.8 64:ff9b:1::8.8.8.8 2002:808:808:: 2001:0:53aa:64c::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254
ff02::1 2001:db8::1 junk 127.1 2130706433
"""


@pytest.mark.parametrize("ip", REFUSED_IPS.split())
def test_special_addresses_are_refused_when_connecting(ip: str) -> None:
    assert not STRICT.permits(ip, 443, "https")


def test_a_public_address_is_called_over_https_only() -> None:
    assert STRICT.permits("8.8.8.8", 443, "https")
    assert STRICT.permits("8.8.8.8", 8443, "https")
    assert STRICT.permits("2606:4700::1111", 443, "https")
    assert not STRICT.permits("8.8.8.8", 80, "http")


def test_ranges_end_where_the_registry_says() -> None:
    assert STRICT.permits("172.15.255.255", 443, "https")
    assert STRICT.permits("172.32.0.0", 443, "https")
    assert STRICT.permits("100.63.255.255", 443, "https")
    assert STRICT.permits("100.128.0.0", 443, "https")
    assert STRICT.permits("223.255.255.255", 443, "https")
    assert STRICT.permits("2001:200::1", 443, "https")
    assert not STRICT.permits("2001:1ff::1", 443, "https")


def test_loopback_is_called_in_development() -> None:
    for ip in ("127.0.0.1", "127.0.0.2", "::1"):
        assert DEVELOPMENT.permits(ip, 9000, "http")
        assert not STRICT.permits(ip, 9000, "http")
    for ip in ("::ffff:127.0.0.1", "10.0.0.1", "0.0.0.0", "169.254.169.254"):
        assert not DEVELOPMENT.permits(ip, 9000, "http")
    DEVELOPMENT.check_url("http://127.0.0.1:9000/v1")
    DEVELOPMENT.check_url("http://localhost:11434/v1")
    with pytest.raises(AddressRefused):
        DEVELOPMENT.check_url("http://api.x.com/v1")
    with pytest.raises(AddressRefused):
        DEVELOPMENT.check_url("http://2130706433/v1")


def test_a_network_on_the_list_is_called_at_every_port() -> None:
    policy = AddressPolicy(["10.1.0.0/16", "fd12::/16", "192.168.7.7"], development=False)
    assert policy.permits("10.1.2.3", 80, "http")
    assert policy.permits("10.1.2.3", 443, "https")
    assert policy.permits("fd12::5", 8000, "http")
    assert policy.permits("192.168.7.7", 1, "http")
    assert not policy.permits("192.168.7.8", 1, "http")
    assert not policy.permits("10.2.0.1", 80, "http")
    policy.check_url("http://10.1.2.3:8000/v1")
    policy.check_url("http://inside.example.com/v1")  # may lead into 10.1.0.0/16: decided when connecting
    with pytest.raises(AddressRefused):
        policy.check_url("http://10.2.0.1/v1")


def test_an_endpoint_on_the_list_is_called_at_its_port_only() -> None:
    policy = AddressPolicy(["10.0.0.5:9000", "[fd12::1]:8000", "ollama:11434", "Lab.Example.com:80"], development=False)
    assert policy.permits("10.0.0.5", 9000, "http")
    assert not policy.permits("10.0.0.5", 9001, "http")
    assert policy.permits("fd12::1", 8000, "http")
    assert policy.permits("172.18.0.3", 11434, "http", "ollama")
    assert not policy.permits("172.18.0.3", 11435, "http", "ollama")
    assert not policy.permits("172.18.0.3", 11434, "http", "other")
    assert policy.permits("172.18.0.3", 80, "http", "LAB.example.com.")
    policy.check_url("http://ollama:11434/v1")


@pytest.mark.parametrize("ip", ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "::ffff:169.254.169.254"])
def test_metadata_services_are_never_called_whatever_the_list_says(ip: str) -> None:
    everything = AddressPolicy(["0.0.0.0/0", "::/0", "trap:80", "169.254.169.254:80"], development=True)
    assert everything.permits("10.0.0.1", 80, "http")
    assert not everything.permits(ip, 80, "http")
    assert not everything.permits(ip, 80, "http", "trap")
    with pytest.raises(AddressRefused, match="never called"):
        everything.check_url(f"http://[{ip}]/v1" if ":" in ip else f"http://{ip}/v1")


@pytest.mark.parametrize("ip", ["64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1", "::169.254.169.254"])
def test_metadata_services_are_not_reached_through_another_form_either(ip: str) -> None:
    assert not AddressPolicy(["::/0"], development=True).permits(ip, 80, "http")


@pytest.mark.parametrize(
    "entry", ["ollama", "10.0.0.0/99", "10.0.0.1/8", "http://x:80", "x:port", "x:80/v1", "x@y:80", ""]
)
def test_an_entry_that_cannot_be_read_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=SETTING):
        AddressPolicy([entry], development=False)


@given(st.one_of(st.text(), st.text().map(lambda tail: f"https://{tail}"), st.text().map(lambda t: f"http://[{t}]:1/")))
def test_any_text_is_either_an_address_or_refused_with_a_sentence(text: str) -> None:
    try:
        stored = normalise(text, bare_path="/v1")
    except AddressError as error:
        assert str(error)  # noqa: PT017
    else:
        assert normalise(stored, bare_path="/v1") == stored
        assert origin(stored) == origin(text)
