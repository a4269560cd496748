"""TLS to a cache: the server's certificate and the name of its host are verified, but where the user turns that off."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from nekkar.core.cache import BaseCache, MemcachedCache, from_url
from nekkar.core.errors import CacheError
from nekkar.redis import RedisCache
from tests.integration.proxy import proxy
from tests.support.servers import memcached, redis_server

RIGHT, WRONG = ("localhost", "127.0.0.1", "::1"), ("other.example.com",)
SCHEMES = ("rediss", "valkeys", "memcacheds")


class Secured:
    """A server behind TLS, once with a certificate of its own host and once with another's; both of one authority."""

    def __init__(self, ports: dict[tuple[str, bool], int], authority: Path) -> None:
        self.ports, self.authority = ports, authority

    def url(self, scheme: str, right: bool, **options: str) -> str:
        port = self.ports[scheme, right]
        options |= {} if scheme == "memcacheds" else {"ssl_ca_certs": str(self.authority)}
        query = "&".join(f"{name}={value}" for name, value in {"timeout": "10", **options}.items())
        return f"{scheme}://localhost:{port}?{query}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    authority, ports = trustme.CA(), dict[tuple[str, bool], int]()
    file = tmp_path_factory.mktemp("authority") / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    with ExitStack() as stack:
        redis, memcached_ = stack.enter_context(redis_server()), stack.enter_context(memcached())
        for right, names in ((True, RIGHT), (False, WRONG)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*names).configure_cert(context)
            for server, schemes in ((redis, SCHEMES[:2]), (memcached_, SCHEMES[2:])):
                running = stack.enter_context(proxy(server.port, context))
                ports |= {(scheme, right): running.port for scheme in schemes}
        yield Secured(ports, file)


def works(cache: BaseCache) -> None:
    cache.set("key", "value")
    assert cache.get("key") == "value"


@pytest.fixture
def trusted(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system trusts the authority, for what can't be told of it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.authority))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_the_host_opens(scheme: str, secured: Secured) -> None:
    """By its name, and by its address where that stands in the certificate."""
    url = secured.url(scheme, right=True)
    works(from_url(url))
    works(from_url(url.replace("localhost", "127.0.0.1")))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_host_is_refused(scheme: str, secured: Secured) -> None:
    """Though the authority is trusted: whoever has any certificate of it could read the password otherwise."""
    with pytest.raises(CacheError, match=r"(?i)certificate is not valid for 'localhost'"):
        from_url(secured.url(scheme, right=False)).get("key")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_of_an_unknown_authority_is_refused(scheme: str, secured: Secured) -> None:
    """By what the system trusts."""
    with pytest.raises(CacheError, match="CERTIFICATE_VERIFY_FAILED"):
        from_url(secured.url(scheme, right=True).partition("&")[0]).get("key")


@pytest.mark.parametrize("library", ["redis", "valkey"])
def test_nor_does_an_address_with_ssl_take_another_hosts(library: str, secured: Secured) -> None:
    """With no URL too, and from Python."""
    port, file = secured.ports["rediss", False], str(secured.authority)
    scheme = {"redis": "rediss", "valkey": "valkeys"}[library]
    caches = [RedisCache("localhost", port, ssl=True, ssl_ca_certs=file, timeout=10)]
    caches += [RedisCache(f"{scheme}://localhost:{port}", ssl_ca_certs=file, timeout=10)]
    for cache in caches:
        with pytest.raises(CacheError, match=r"(?i)certificate is not valid for 'localhost'"):
            cache.get("key")


@pytest.mark.parametrize("scheme", SCHEMES[:2])
@pytest.mark.parametrize(
    "option", [{"ssl_check_hostname": "false"}, {"ssl_check_hostname": "0"}, {"ssl_cert_reqs": "none"}]
)
def test_the_user_may_turn_it_off_in_the_url(scheme: str, option: dict[str, str], secured: Secured) -> None:
    """The host's name alone, or all of it."""
    works(from_url(secured.url(scheme, right=False, **option)))


@pytest.mark.parametrize("scheme", SCHEMES[:2])
@pytest.mark.parametrize("value", ["true", "1", "", "what"])
def test_what_does_not_turn_it_off_leaves_it_on(scheme: str, value: str, secured: Secured) -> None:
    """A value that means nothing either."""
    with pytest.raises(CacheError, match=r"(?i)certificate is not valid for 'localhost'"):
        from_url(secured.url(scheme, right=False, ssl_check_hostname=value)).get("key")


def test_the_user_may_turn_it_off_in_python(secured: Secured) -> None:
    """By an argument, or by a context."""
    port, file = secured.ports["rediss", False], str(secured.authority)
    works(RedisCache("localhost", port, ssl=True, ssl_ca_certs=file, ssl_check_hostname=False, timeout=10))
    works(RedisCache("localhost", port, ssl=True, ssl_cert_reqs="none", ssl_check_hostname=False, timeout=10))
    works(RedisCache(f"valkeys://localhost:{port}", ssl_ca_certs=file, ssl_check_hostname=False, timeout=10))
    context = ssl.create_default_context(cafile=file)
    context.check_hostname = False
    works(MemcachedCache("localhost", secured.ports["memcacheds", False], tls_context=context, timeout=10))
