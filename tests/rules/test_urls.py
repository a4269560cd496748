"""No spelling of a URL escapes a rule that covers it: hostile URLs, and what HTTP libraries make of them."""

from __future__ import annotations

import unicodedata
from contextlib import suppress

import httpx
import idna
import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nekkar.rules import Rule, RuleTable
from tests.rules.test_patterns import fits
from tests.support.internals.rules import _PLAIN, _address, address, ascii_host, read_request

HOSTILE = [
    ("https://api.example.com/a", "hTTps://API.EXAMPLE.COM:443/a", True),
    ("https://api.example.com/a", "https://api.example.com./a", True),
    ("https://api.example.com./a", "https://api.example.com/a", True),
    ("https://api.example.com/a", "https://api%2Eexample.com/a", True),
    ("https://api.example.com/a", "https://user:p@api.example.com/a", True),
    ("https://api.example.com/a", "https://a@b@api.example.com/a", True),
    ("https://api.example.com", "https://api.example.com@evil/", False),
    ("evil", "https://api.example.com@evil/", True),
    ("evil", "https://api.example.com:443@evil/", True),
    ("evil", "https://evil/@api.example.com", True),
    ("evil", "https://evil?@api.example.com", True),
    ("evil", "https://evil#@api.example.com", True),
    ("api.example.com", "https://api.example.com\\@evil/", True),
    ("api.example.com", "https:\\\\api.example.com\\a", True),
    ("api.example.com", "https:///api.example.com/a", True),
    ("api.example.com", "//api.example.com/a", True),
    ("api.example.com", "api.example.com/a", True),
    ("api.example.com/a", "  https://api.example.com/a\n", True),
    ("api.example.com/abc", "https://api.exa\tmple.com/a\r\nb\tc", True),
    ("h/b", "https://h/a/../b", True),
    ("h/b", "https://h/../../b", True),
    ("h/b", "https://h/./b", True),
    ("h/b", "https://h/a/%2e%2E/b", True),
    ("h/b", "https://h/.%2e/b", True),
    ("h/b/", "https://h/b/c/..", True),
    ("h/b/", "https://h/b/.", True),
    ("h/", "https://h/a/..", True),
    ("h/b", "https://h/a/%252e%252e/b", False),
    ("h/a/*", "https://h/a/../b", False),
    ("h/a/*", "https://h/a/%2e%2e%2fb", True),
    ("h/a", "https://h//a", False),
    ("h/*/a", "https://h//a", True),
    ("h/a/b", "https://h/a%2Fb", False),
    ("h/*", "https://h/a%2Fb", True),
    ("h/a%2fb", "https://h/a%2Fb", True),
    ("h/a", "https://h/%2561", False),
    ("h/%zz", "https://h/%zz", True),
    ("http://[::1]/a", "http://[0:0:0:0:0:0:0:1]:80/a", True),
    ("http://[2001:DB8::1]:8080", "http://[2001:db8:0::1]:8080/", True),
    ("http://[::1]:81", "http://[::1]/", False),
    ("[fe80::1%25eth0]", "http://[fe80:0::1%25eth0]/", True),
    ("127.0.0.1", "http://127.1/", True),
    ("127.0.0.1", "http://0x7f.0.0.1/", True),
    ("127.0.0.1", "http://2130706433/", True),
    ("bücher.example", "https://xn--bcher-kva.example/", True),
    ("xn--bcher-kva.example", "https://BÜCHER.example/", True),
    ("*.bücher.example", "https://a.xn--bcher-kva.example/", True),
    ("api.example.com", "https://api。example．com/", True),  # noqa: RUF001
    ("api.example.com", "https://ａｐｉ.example.com/", True),  # noqa: RUF001
    ("api.example.com", "https://a\u00adpi.example.com/", True),
    ("faß.de", "https://xn--fa-hia.de/", True),
    ("faß.de", "https://fass.de/", False),
    ("h:443", "https://h:/", True),
    ("h:443", "http://h:0000000443/", True),
    ("h", "https://h:99999/", True),
    ("h", "https://h:abc/", True),
    ("h:80", "https://h:abc/", False),
    ("h:80", "https://h:" + "9" * 5000, False),
    ("h:1", "https://h:\u0661/", True),
    ("h/a", "https://h/a?%", True),
]


@pytest.mark.parametrize(("pattern", "url", "expected"), HOSTILE)
def test_no_spelling_escapes_a_rule_or_slips_under_one(pattern: str, url: str, expected: bool) -> None:
    assert fits(pattern, url) is expected


NO_URLS: list[object] = ["", " ", "\0", "://", "?", "#", "/", "@", "https://", "https://:80", "https://@", "https://.."]
NO_URLS += [
    "https://[",
    "https://[::1",
    "https://]",
    "https://[x]y:z/",
    "https://[::1%]",
    "https://h:-1",
    "https://h/%",
]
NO_URLS += [
    "https://h\ud800ü/\ud800?\udcff",
    "https://ü\ud800/",
    "https://" + "ü" * 80,
    "https://1.2.3.4.5",
    "https://0x",
]
NO_URLS += ["\u3002", "https://\u3002", b"\xff", None]


@pytest.mark.parametrize("url", NO_URLS)
def test_a_url_that_is_none_is_read_as_far_as_it_can_be_and_never_raises(url: object) -> None:
    table = RuleTable(
        [Rule("h", "h"), Rule("{a}.h/{b}", "h"), Rule("*?x=1", "h"), Rule("*", "all")], {"h": 1, "all": 1}
    )
    assert table.resolve("GET", url) in ("h", "all")


@given(st.text(), st.text(alphabet="hps:/\\@#?[]%2eEfF.\t*{}x1a-ü"))
def test_no_text_at_all_raises_or_escapes_a_rule_for_everything(noise: str, url: str) -> None:
    assert fits("*", noise)
    assert fits("*", url)
    assert fits("h/*", f"https://h/{noise}")
    assert fits("h/a", f"https://h/a#{noise}")


@pytest.mark.parametrize("url", [url for _, url, _ in HOSTILE if "://" in url and not set(url) & set("\t\n")])
def test_a_url_is_read_as_what_requests_and_httpx_make_of_it(url: str) -> None:
    for made in filter(None, (_by_requests(url), _by_httpx(url))):
        assert read_request("GET", made) == read_request("GET", url)


def _by_requests(url: str) -> str | None:
    try:
        return requests.Request("GET", url).prepare().url
    except requests.RequestException:
        return None


def _by_httpx(url: str) -> str | None:
    """Leave out where httpx sends something else: a backslash in the host, no slash after a last dot segment."""
    try:
        return None if "\\" in url or url.endswith(("b/.", "c/..")) else str(httpx.URL(url))
    except httpx.InvalidURL:
        return None


# Every spelling of one address


def cased(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from([text, text.upper(), text.title()])


def encoded(text: str) -> st.SearchStrategy[str]:
    """Return spellings of a segment with any of its characters percent-encoded."""
    each = [st.sampled_from([char, f"%{ord(char):02x}", f"%{ord(char):02X}"]) for char in text]
    return st.tuples(*each).map("".join)


def joined(*parts: str | st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map("".join)


HOSTS = cased("api.example.com") | st.sampled_from(
    [
        "api.example.com.",
        "\uff41\uff50\uff49.example.com",
        "api。example。com",
        "a\u00adpi.\ufe0fexample.com",
        "api.ex\u2060ample.ⓒom",
    ]
)
DETOURS = st.sampled_from(["/", "/./", "/x/../", "/x/y/../../", "/%2e/", "/x/%2E%2e/", "/../", "/.%2e/"])
SPELLINGS = joined(
    cased("https"),
    "://",
    st.sampled_from(["", "user@", "user:pass%40@", "api.example.org:80@"]),
    HOSTS,
    st.sampled_from(["", ":443", ":", ":0443"]),
    DETOURS,
    encoded("users"),
    "/",
    encoded("a") | encoded("7"),
    st.sampled_from(["", "?", "?x=1", "?/../x", "#", "#/../x", "?x#y"]),
)


@settings(max_examples=400)
@given(SPELLINGS)
def test_no_mixture_of_spellings_escapes_a_rule(url: str) -> None:
    """Case, a trailing dot, odd letters, user info, default ports, dot segments and percent-encoding, all at once."""
    for pattern in ("https://api.example.com/users/*", "*.example.com:443/users/{id}", "api.*.com/users/*", "*"):
        assert fits(pattern, url)
    assert not fits("api.example.org", url)
    assert not fits("api.example.com/x/*", url)
    for made in filter(None, (_by_requests(url), _by_httpx(url))):
        assert fits("https://api.example.com/users/*", made)


def test_every_letter_is_mapped_as_http_libraries_map_it() -> None:
    """A fixed bug: ``requests`` drops a variation selector from a host, and the rule for the host did not cover it.

    Letters that this Python does not know yet are left out.
    """
    for char in map(chr, range(0x80, 0x110000)):
        if unicodedata.category(char) not in ("Cn", "Cs", "Co"):
            with suppress(idna.IDNAError):
                mapped = idna.uts46_remap(f"a{char}b")
                assert ascii_host(f"a{char}b") == ascii_host(mapped), ascii(char)


LETTERS = "aAßẞςΣ\u03c3\u03f2éE\u0301\u0300\u0327Ⅷ㎏ﬁİ\u0131\u017fK\u212b"
LETTERS += "\u3002\uff0e\uff61가\u1100\u1161\u11a8ǅo\u030b\ufe0f\u00ad"


@given(st.text(st.sampled_from(LETTERS), min_size=1, max_size=8))
def test_letters_that_combine_are_mapped_as_http_libraries_map_them(text: str) -> None:
    try:
        made = idna.encode(f"{text}.ex", uts46=True).decode()
    except idna.IDNAError:
        return
    assert ascii_host(f"{text}.ex") == made


SCHEMES = st.sampled_from(["http", "https", "ws", "x"])
PLAIN_PARTS = st.text(st.sampled_from("ab1-_.~!$&'()*+,;=:@/?[]|^`\"<>{} %#\\AZ\té"), max_size=12)


@settings(max_examples=500)
@given(
    joined(st.sampled_from(["http", "https", "ws", "x"]), "://", st.text("a1.-x", max_size=8), PLAIN_PARTS, PLAIN_PARTS)
)
@example("https://a.b/?c#d")
@example("https://a.b:80/c/./d")
@example("https://a..b/")
@example("https://a.b./")
@example("https://1.2/")
@example("https://a:0/")
def test_the_short_way_for_plain_urls_agrees_with_the_long_one(url: str) -> None:
    assert address(url) == _address(url)


@pytest.mark.parametrize(
    "url", ["https://api.example.com/v1/a-b_c.json?x=1&y=2", "http://a1.b:8080/@x/y;z=1,2/", "https://h"]
)
def test_usual_urls_take_the_short_way(url: str) -> None:
    assert _PLAIN.fullmatch(url)
