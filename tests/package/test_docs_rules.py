"""Every rule in the README, the docs and the docstrings matches the real URLs that it is meant for."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator

import pytest

from nekkar.rules import Rule, RuleTable
from tests.support.pages import DOCS, PAGES, ROOT, Fence, all_fences

GITHUB_SEARCH = "https://api.github.com/search/code?q=addClass+repo:jquery/jquery"
OPENAI = "https://api.openai.com/v1/chat/completions"
AZURE = "https://RESOURCE.openai.azure.com/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"

# By rule, what a client of that service really sends; each "METHOD URL", GET where it has no method.
# A rule that is new in the docs needs a line here, with URLs from the service's documentation.
MEANT: dict[str, tuple[str, ...]] = {
    # services
    "https://api.openai.com/v1/chat/completions": (f"POST {OPENAI}",),
    "https://api.openai.com/v1/*": (f"POST {OPENAI}", "POST https://api.openai.com/v1/embeddings"),
    "https://www.googleapis.com/youtube/v3/search": ("https://www.googleapis.com/youtube/v3/search?part=snippet&q=a",),
    "https://www.googleapis.com/youtube/v3/*": ("https://www.googleapis.com/youtube/v3/videos?part=snippet&id=a",),
    "*.openai.azure.com/openai/deployments/{deployment}/*": (f"POST {AZURE}",),
    "https://api.anthropic.com/v1/messages": ("POST https://api.anthropic.com/v1/messages",),
    "*.myshopify.com/admin/api/*/graphql.json": ("POST https://a-shop.myshopify.com/admin/api/2026-07/graphql.json",),
    "https://api.airtable.com": ("https://api.airtable.com/v0/appBASE/Table%201?pageSize=100",),
    "https://api.github.com": (
        "https://api.github.com/repos/psf/requests/issues?page=2",
        "https://api.github.com/users",
        "POST https://api.github.com/repos/psf/requests/issues",
    ),
    "api.github.com": ("https://api.github.com/repos/psf/requests", GITHUB_SEARCH),
    "https://api.github.com/search/*": (GITHUB_SEARCH, "https://api.github.com/search/issues?q=is:open"),
    "https://api.github.com/health": ("https://api.github.com/health",),
    "https://api.github.com/x": ("https://api.github.com/x",),
    "https://objects.githubusercontent.com": (
        "https://objects.githubusercontent.com/github-production-release-asset-2e65be/1/2?X-Amz-Expires=300",
    ),
    "gitlab.example.com/api/*": (
        "https://gitlab.example.com/api/v4/projects/42",
        "https://gitlab.example.com/api/v4/user",
    ),
    # services of a reader's own
    "localhost:8000": ("http://localhost:8000/",),
    "*": ("https://api.example.com/a", "http://localhost:8000/"),
    "{host}.example.com": ("https://api.example.com/a?b=1",),
    "api.example.com": ("https://api.example.com/", "https://api.example.com/a?b=1", "http://api.example.com:8080/a/b"),
    "api.example.com/search/*": ("https://api.example.com/search/code", "https://api.example.com/search?q=a"),
    "https://api.example.com/*": ("https://api.example.com/", "https://api.example.com/a/b?c=1"),
    "https://api.example.com/a": ("https://api.example.com/a", "https://api.example.com/a?b=1"),
    "https://api.example.com/a/*": ("https://api.example.com/a", "https://api.example.com/a/b/c"),
    "https://api.example.com/health": ("https://api.example.com/health",),
    "*.example.com": ("https://eu.example.com/a", "https://a.b.example.com/"),
    "*.example.com/users/{user}/*": ("https://eu.example.com/users/42/orders", "https://api.example.com/users/42"),
    "api-*.example.com/v*/items": ("https://api-eu.example.com/v2/items",),
    "example.com/users/{user}": ("https://example.com/users/42",),
    "{region}.example.com": ("https://eu.example.com/a/b",),
    "example.com/list?kind=new": ("https://example.com/list?page=2&kind=new",),
    "example.com/list?kind": ("https://example.com/list?kind=old", "https://example.com/list?page=2&kind="),
}

_IN_CODE = re.compile(r"""\bRule\(\s*["']([^"']+)["']""")
_IN_TOML = re.compile(r"""\burl["']?\s*[=:]\s*["']([^"']+)["']""")


def requests_of(pattern: str) -> list[tuple[str, str]]:
    """Return the method and URL of each request that a rule is meant for."""
    return [(method or "GET", url) for method, _, url in (one.rpartition(" ") for one in MEANT[pattern])]


def found_rules() -> set[str]:
    """Return the pattern of each rule in the pages and in the sources, and each of the grammar's examples."""
    texts = [path.read_text(encoding="utf-8") for path in (*PAGES, *(ROOT / "nekkar").rglob("*.py"))]
    grammar = (DOCS / "how-to" / "rule-files.md").read_text(encoding="utf-8").partition("\n## Patterns\n")[2]
    examples = re.findall(r"^\| `([^`]+)` \|", grammar.partition("\n## ")[0], re.MULTILINE)
    assert len(examples) >= 8
    return {*examples, *(found for text in texts for form in (_IN_CODE, _IN_TOML) for found in form.findall(text))}


def rules_of(fence: Fence) -> Iterator[Rule]:
    """Yield the rules of a fence, in order, each of no limit."""
    if fence.language == "toml":
        for entry in tomllib.loads(fence.code).get("rules", []):
            if "{json:" not in str(entry["limit"]):  # such a rule needs a body, and hides no other
                yield Rule(entry["url"], False, methods=entry.get("methods"))
        return
    calls = [node for node in ast.walk(ast.parse(fence.code)) if isinstance(node, ast.Call)]
    rules = [call for call in calls if getattr(call.func, "id", "") == "Rule"]
    for call in sorted(rules, key=lambda call: (call.lineno, call.col_offset)):
        methods = [ast.literal_eval(one.value) for one in call.keywords if one.arg == "methods"]
        yield Rule(ast.literal_eval(call.args[0]), False, methods=methods[0] if methods else None)


FENCES = [fence for fence in [*all_fences("python"), *all_fences("toml")] if "broken.toml" not in fence.files]
WITH_RULES = [fence for fence in FENCES if list(rules_of(fence))]


def test_each_rule_of_the_docs_stands_in_the_table() -> None:
    """A rule without a real URL beside it may match nothing; a line without a rule is of no use."""
    assert found_rules() == set(MEANT)


@pytest.mark.parametrize("pattern", MEANT)
def test_each_rule_matches_the_real_urls_that_it_is_meant_for(pattern: str) -> None:
    table = RuleTable([Rule(pattern, False)])
    for method, url in requests_of(pattern):
        assert table.explain(method, url).number == 0, str(table.explain(method, url))


@pytest.mark.parametrize("fence", WITH_RULES, ids=str)
def test_each_rule_of_a_table_gets_its_requests(fence: Fence) -> None:
    """None is taken by a rule above it."""
    rules = list(rules_of(fence))
    table = RuleTable(rules)
    for number, rule in enumerate(rules):
        told = [table.explain(method, url) for method, url in requests_of(rule.url)]
        assert number in {one.number for one in told}, str(told[0])


def test_there_are_rules_to_try() -> None:
    """The tests above are not empty."""
    assert len(WITH_RULES) >= 15


def test_a_rule_without_the_whole_path_is_found_out() -> None:
    """As the table would: no service has this endpoint at its root."""
    table = RuleTable([Rule("*/chat/completions", False)])
    assert [table.explain("POST", url).number for url in (OPENAI, AZURE)] == [None, None]
