"""A limited session is as the same session without a limit: the same calls, the same outcomes.

Each call of the table is made twice on a local site, through a plain session and through one that went through
``limit``, and everything a caller can see of it is compared, and everything that the site saw.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import requests
import trustme
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from urllib3.util import Retry

from nekkar.core.limiter import Nekkar
from nekkar.requests import NekkarAdapter, limit
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.web import TIMEOUT, Hit, Proxy, Site, running

RULES = RuleTable([Rule("*", "all")], {"all": "1000/hour"})
METERED = RuleTable([Rule("*", "all")], {"all": {"rate": "1000/hour; 1000000 tokens/hour", "meter": "openai"}})


@dataclass(frozen=True)
class Web:
    """What there is to call: a site, the same over TLS, one that asks for a certificate, a proxy, and files."""

    plain: Site
    tls: Site
    mutual: Site
    proxy: Proxy
    ca: str
    certificate: tuple[str, str]
    refusing: str

    @property
    def sites(self) -> list[Site]:
        return [self.plain, self.tls, self.mutual]

    @property
    def hits(self) -> list[Hit]:
        return [hit for site in self.sites for hit in site.hits]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    own, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client@example.com")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client.cert_chain_pems[0].write_to_path(folder / "client.pem")
    client.private_key_pem.write_to_path(folder / "client.key")
    contexts = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2)]
    for context in contexts:
        own.configure_cert(context)
    authority.configure_trust(contexts[1])
    contexts[1].verify_mode = ssl.CERT_REQUIRED
    sites = running(Site()), running(Site(contexts[0])), running(Site(contexts[1])), running(Proxy()), socket.socket()
    with sites[0] as plain, sites[1] as tls, sites[2] as mutual, sites[3] as proxy, sites[4] as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        refusing = f"http://127.0.0.1:{held.getsockname()[1]}/"
        certificate = str(folder / "client.pem"), str(folder / "client.key")
        yield Web(plain, tls, mutual, proxy, str(folder / "ca.pem"), certificate, refusing)


Call = Callable[[requests.Session, Web], Any]


def get(path: str, **options: Any) -> Call:
    return lambda session, web: session.get(web.plain.url + path, **{"timeout": TIMEOUT, **options})


def send(method: str, **options: Any) -> Call:
    return lambda session, web: session.request(method, f"{web.plain.url}/echo", timeout=TIMEOUT, **options)


def retried(path: str, retry: Retry) -> Call:
    def call(session: requests.Session, web: Web) -> Any:
        for adapter in session.adapters.values():
            adapter.max_retries = retry  # type: ignore[attr-defined]
        return session.get(web.plain.url + path, timeout=TIMEOUT)

    return call


def proxied(site: str, **options: Any) -> Call:
    def call(session: requests.Session, web: Web) -> Any:
        session.proxies = {"http": web.proxy.url, "https": web.proxy.url}
        return session.get(f"{getattr(web, site).url}/echo", verify=web.ca, timeout=TIMEOUT, **options)

    return call


def streamed(session: requests.Session, web: Web) -> Any:
    with session.get(f"{web.plain.url}/large", stream=True, timeout=TIMEOUT) as response:
        unread = response.raw.tell()
        return unread, [len(chunk) for chunk in response.iter_content(30_000)], response.raw.tell()


def kept_cookies(session: requests.Session, web: Web) -> Any:
    session.get(f"{web.plain.url}/cookie/a=1", timeout=TIMEOUT)
    return session.get(f"{web.plain.url}/echo", cookies={"b": "2"}, timeout=TIMEOUT), session.cookies.get_dict()


def one_connection(session: requests.Session, web: Web) -> Any:
    return [session.get(f"{web.tls.url}/echo", verify=web.ca, timeout=TIMEOUT) for _ in range(5)]


def an_abandoned_stream(session: requests.Session, web: Web) -> Any:
    session.get(f"{web.plain.url}/large", stream=True, timeout=TIMEOUT).close()
    return session.get(f"{web.plain.url}/echo", timeout=TIMEOUT)


def hooked(session: requests.Session, web: Web) -> Any:
    seen: list[int] = []
    session.hooks["response"].append(lambda response, **given: seen.append(response.status_code))
    return session.get(f"{web.plain.url}/redirect/2", timeout=TIMEOUT), seen


def prepared(session: requests.Session, web: Web) -> Any:
    request = requests.Request("POST", f"{web.plain.url}/echo", json={"a": 1}, params={"q": "ü b"})
    return session.send(session.prepare_request(request), timeout=TIMEOUT)


def generated(session: requests.Session, web: Web) -> Any:
    return session.post(f"{web.plain.url}/echo", data=(part for part in [b"a", b"b"]), timeout=TIMEOUT)


def uploaded(session: requests.Session, web: Web) -> Any:
    with mock.patch("urllib3.filepost.choose_boundary", return_value="boundary"):
        return session.post(f"{web.plain.url}/echo", files={"f": ("n", io.BytesIO(b"data"))}, timeout=TIMEOUT)


def verified(site: str, **options: Any) -> Call:
    def call(session: requests.Session, web: Web) -> Any:
        given = {"verify": web.ca, "cert": web.certificate} | options
        return session.get(f"{getattr(web, site).url}/echo", timeout=TIMEOUT, **given)

    return call


def by_session(session: requests.Session, web: Web) -> Any:
    session.verify, session.cert, session.headers["X-Own"] = web.ca, web.certificate, "1"
    return session.get(f"{web.mutual.url}/echo", timeout=TIMEOUT)


def reopened(session: requests.Session, web: Web) -> Any:
    first = session.get(f"{web.plain.url}/echo", timeout=TIMEOUT)
    session.close()
    return first, session.get(f"{web.plain.url}/echo", timeout=TIMEOUT)


RETRY = Retry(3, status_forcelist=[503], backoff_factor=0)
CALLS: dict[str, Call] = {
    **{method: send(method) for method in ("GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH")},
    "json": send("POST", json={"a": [1, "ü"]}),
    "form": send("PUT", data={"a": "1", "b": "ü"}),
    "bytes": send("PATCH", data=b"\x00\xff"),
    "file": lambda session, web: send("POST", data=io.BytesIO(b"a file"))(session, web),
    "generator": generated,
    "upload": uploaded,
    "params": send("GET", params={"q": ["a b", "ü"], "n": None}),
    "headers": send("GET", headers={"X-A": "1", "User-Agent": "me", "Accept-Encoding": None}),
    "prepared": prepared,
    "stream": streamed,
    "abandoned stream": an_abandoned_stream,
    "cookies": kept_cookies,
    "redirects": get("/redirect/3"),
    "no redirects": get("/redirect/3", allow_redirects=False),
    "too many redirects": get("/redirect/40"),
    "redirected post 303": lambda s, w: s.post(f"{w.plain.url}/moved/303", data=b"x", timeout=TIMEOUT),
    "redirected post 307": lambda s, w: s.post(f"{w.plain.url}/moved/307", data=b"x", timeout=TIMEOUT),
    "not found": get("/status/404"),
    "refused 429": get("/status/429"),
    "raised": lambda s, w: get("/status/500")(s, w).raise_for_status(),
    "gzip": get("/gzip"),
    "latin": get("/latin"),
    "basic": get("/basic", auth=("user", "secret")),
    "basic in url": lambda s, w: s.get(w.plain.url.replace("//", "//user:secret@") + "/basic", timeout=TIMEOUT),
    "wrong basic": get("/basic", auth=HTTPBasicAuth("user", "wrong")),
    "digest": lambda s, w: get("/digest", auth=HTTPDigestAuth("user", "secret"))(s, w),
    "no credentials": get("/digest"),
    "hooks": hooked,
    "one connection": one_connection,
    "reopened": reopened,
    "timeout pair": get("/echo", timeout=(3, 30)),
    "read timeout": get("/silent", timeout=(TIMEOUT, 0.25)),  # by when a busy machine has seen it arrive
    "bad timeout": get("/echo", timeout=(1, 2, 3)),
    "short body": get("/short"),
    "short stream": lambda s, w: list(get("/short", stream=True)(s, w).iter_content(10)),
    "broken connection": get("/broken/99"),
    "no server": lambda s, w: s.get(w.refusing, timeout=TIMEOUT),
    "no scheme": lambda s, w: s.get("example.com", timeout=TIMEOUT),
    "unknown scheme": lambda s, w: s.get("ftp://example.com/", timeout=TIMEOUT),
    "no host": lambda s, w: s.get("http:///x", timeout=TIMEOUT),
    "bad label": lambda s, w: s.get("http://.example.com/", timeout=TIMEOUT),
    "bad header": get("/echo", headers={"X-A": "1\n2"}),
    "retries": retried("/flaky/2", RETRY),
    "retries after breaks": retried("/broken/2", RETRY),
    "too many retries": retried("/flaky/9", RETRY),
    "too many breaks": retried("/broken/9", RETRY),
    "retries that return": retried("/flaky/9", RETRY.new(raise_on_status=False)),
    "proxy": proxied("plain"),
    "proxy for tls": proxied("tls"),
    "proxy for one call": lambda s, w: get("/echo", proxies={"http": w.proxy.url})(s, w),
    "proxy with credentials": lambda s, w: get("/echo", proxies={"http": w.proxy.url.replace("//", "//a:b@")})(s, w),
    "no proxy there": lambda s, w: get("/echo", proxies={"http": w.refusing})(s, w),
    "bad proxy": get("/echo", proxies={"http": "http:///"}),
    "tls": verified("tls"),
    "tls of nobody": verified("tls", verify=True),
    "tls unverified": verified("tls", verify=False),
    "tls with no file": verified("tls", verify="/nowhere/ca.pem"),
    "client certificate": verified("mutual"),
    "client certificate of the session": by_session,
    "client certificate that is no file": verified("mutual", cert="/nowhere/client.pem"),
}


def blocking(session: requests.Session) -> requests.Session:
    """Mount adapters with one connection a site, waited for."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=1, pool_block=True))
    return session


def mounted(session: requests.Session) -> requests.Session:
    """Limit with adapters that send themselves."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, NekkarAdapter(Nekkar(), RULES))
    return session


def limited(session: requests.Session) -> requests.Session:
    return limit(session, Nekkar(), RULES)


def inspected(session: requests.Session) -> requests.Session:
    """Limit with bodies that are read on their way."""
    return limit(session, Nekkar(), METERED, refused=lambda response: None)


Make = Callable[[requests.Session], requests.Session]

PAIRS: dict[str, tuple[Make, Make]] = {
    "limit": (lambda session: session, limited),
    "mounted": (lambda session: session, mounted),
    "blocking": (blocking, lambda session: limited(blocking(session))),
    "inspected": (lambda session: session, inspected),
}


def seen(value: Any) -> Any:
    """Return what a caller can tell of an outcome, as plain values."""
    if isinstance(value, list | tuple):
        return [seen(item) for item in value]
    if not isinstance(value, requests.Response):
        return value
    headers = {name: text for name, text in value.headers.items() if name != "Date"}
    told = value.status_code, value.reason, value.url, value.encoding, headers, value.cookies.get_dict(), value.text
    request = value.request
    sent = request.method, request.url, masked(request.headers.items()), type(request.body).__name__
    return [type(value), told, sent, value.ok, value.is_redirect, [(hop.status_code, hop.url) for hop in value.history]]


def masked(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return headers without what is random in them."""
    return [(name, "Digest" if text.startswith("Digest ") else text) for name, text in headers]


def outcome(call: Call, session: requests.Session, web: Web) -> Any:
    """Return all that came of a call: to its caller, at the sites, at the proxy."""
    for site in web.sites:
        site.forget()
    web.proxy.passed.clear()
    try:
        came = seen(call(session, web))
    except Exception as error:
        causes = [type(cause) for cause in (error.__cause__, error.__context__)]
        request = error.request if isinstance(error, requests.RequestException) else None
        came = type(error), re.sub(r"0x[0-9a-f]+", "0x", str(error)), causes, request and request.url, error.args == ()
    finally:
        session.close()
    arrived = [(hit.method, hit.path, masked(hit.headers), hit.body, hit.connection) for hit in web.hits]
    return came, arrived, web.proxy.passed[:]


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_as_it_would_be_without_a_limit(name: str, pair: str, web: Web) -> None:
    """The caller sees the same answer or error, the site the same requests on as many connections."""
    plain, limited = [make(requests.Session()) for make in PAIRS[pair]]
    plain.trust_env = limited.trust_env = False
    expected = outcome(CALLS[name], plain, web)
    assert outcome(CALLS[name], limited, web) == expected


FAIL = {
    *("too many redirects", "raised", "read timeout", "bad timeout", "short body", "short stream", "broken connection"),
    *("no server", "no scheme", "unknown scheme", "no host", "bad label", "bad header", "too many retries"),
    *("too many breaks", "no proxy there", "bad proxy", "tls of nobody", "tls with no file"),
    "client certificate that is no file",
}


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("name", CALLS)
def test_the_table_calls_what_it_says(name: str, web: Web) -> None:
    """A comparison of two failures of the set-up would be hollow: what should be answered is."""
    session = requests.Session()
    session.trust_env = False
    came = outcome(CALLS[name], session, web)[0]
    assert isinstance(came, tuple) == (name in FAIL), came


def test_a_connect_takes_no_slot(web: Web) -> None:
    """Through a proxy for TLS, a slot is for what arrives at the site, retries and all, by the site's own URL."""
    limiter = Nekkar(clock=FakeClock())
    rules = RuleTable([Rule(f"https://127.0.0.1:{web.tls.server_port}/flaky/*", "all")], {"all": 1000})
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", HTTPAdapter(max_retries=RETRY))
        limit(session, limiter, rules)
        web.tls.forget()
        web.proxy.passed.clear()
        response = session.get(
            f"{web.tls.url}/flaky/2", verify=web.ca, proxies={"https": web.proxy.url}, timeout=TIMEOUT
        )
    assert response.text == "hello"
    assert web.proxy.passed == [f"CONNECT 127.0.0.1:{web.tls.server_port}"]
    assert len(web.tls.hits) == limiter("all", 1000).status().windows[0].used == 3
