"""The public interface, in one table: what appears in it, goes or takes other arguments is seen in review.

Arguments stand with their defaults; their types are what ``tests/typed`` tries. A name that a module further up
shows too stands as ``= module``. Left out is what a class inherits, and the tests of ``CacheConformance``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nekkar
from nekkar.core.limiter import Admission, Limit
from tests.support.internals.core import JointAdmission, JointLimit

ROOT = Path(__file__).parents[2]

TABLE = """
nekkar
  Admission(name, cost, at, waited)
    .costs
    .settle(**units)
    await .settle_async(**units)
    .release()
    await .release_async()
    .__enter__()
    await .__aenter__()
  CacheError: NekkarError
  ConfigurationError: NekkarError, ValueError
  CorruptLog: CacheError
  Explanation(method, url, number, rule, captured, match, near, unmatched='warn')
  Limit
    .name
    .max_wait
    .headroom
    .__and__(other)
    .acquire(cost=1, max_wait=None, headroom=None)
    await .acquire_async(cost=1, max_wait=None, headroom=None)
    .status()
    await .status_async()
    .hold(seconds)
    await .hold_async(seconds)
    .release()
    await .release_async()
    .reset()
    await .reset_async()
    .__call__(function)
    .metered(cost, settle=None)
    .__enter__()
    await .__aenter__()
  Match(name, rule, rate_limit, period=None, spacing=0.0, max_wait=None, margin=None, headers=False, refused=(), meter=None, own_headroom=None, limit='', also=())
    .names
    .parts
    .cost
    .headroom
    .options
  Nekkar(cache=None, *, clock='auto', on_cache_error='raise', local_share=1.0, max_hold=3600.0)
    .__call__(name, rate_limit, *, period=None, spacing=0.0, max_wait=None, margin=None, concurrency=None, lease=60.0, headroom=0.0)
    .listen(callback)
    .now_us()
  NekkarError: Exception
  Rule(url, limit, *, methods=None, cost=None, headroom=None)
    .limits
  RuleTable(rules, limits=None, *, unmatched='warn', dialects=None)
    .from_file(path)
    .from_dict(mapping)
    .unmatched
    .needs_body
    .resolve(method, url, headers=None, body=None)
    .match(method, url, headers=None, body=None)
    .route(method, url, headers=None, body=None)
    .explain(method, url, headers=None, body=None)
    .dialect(name)
    .limit_named(name)
    .is_template(limit)
  Status(name, windows, next_at, hold_until, waiting, at=0.0, last_at=None)
  WaitTooLong(name, retry_after, max_wait): NekkarError, TimeoutError
  Window(limit, period, used, remaining, unit='calls')
nekkar.core.limiter
  Admission = nekkar
  Limit = nekkar
  Nekkar = nekkar
  Status = nekkar
  Window = nekkar
nekkar.core.errors
  CacheError = nekkar
  ConfigurationError = nekkar
  CorruptLog = nekkar
  NekkarError = nekkar
  WaitTooLong = nekkar
nekkar.core.cache
  BaseCache(): ABC
    .add(key, value)
    .get(key)
    .set(key, value)
    .delete(key)
  MemcachedCache(host='localhost', port=11211, *, servers=None, timeout=1.0, tls_context=None): BaseCache
    .add(key, value)
    .get(key)
    .set(key, value)
    .delete(key)
    .gets(key)
    .cas(key, value, token, ttl)
    .tell_time(now)
    .tell_time_elsewhere(now)
    .server_of(key)
  MemoryCache(): BaseCache
    .add(key, value)
    .get(key)
    .set(key, value)
    .delete(key)
    .gets(key)
    .cas(key, value, token, ttl)
  SqliteCache(path, *, timeout=1.0): BaseCache
    .add(key, value)
    .get(key)
    .set(key, value)
    .delete(key)
    .gets(key)
    .cas(key, value, token, ttl)
  SwapCache: Protocol
    .gets(key)
    .cas(key, value, token, ttl)
  TellsTime: Protocol
    .tell_time(now)
  UNREAD
  from_url(url)
nekkar.core.clock
  Clock: Protocol
    .now_us()
    .sleep_until(at_us, wake)
    await .sleep_until_async(at_us, wake)
  ReadClock: Protocol
    .is_due()
    .read()
  SystemClock()
    .now_us()
    .steady_us()
    .sleep_until(at_us, wake)
    await .sleep_until_async(at_us, wake)
nekkar.core.events
  Admitted(name, cost, at, waited, call=0, costs=<factory>)
  CacheBack()
  CacheLost(error)
  Callback
  Event
  Held(name, at, until)
  Left(name, cost, at, waited, error, call, costs=<factory>)
  Listening
    .stop()
    .hear(event)
    .__enter__()
  Refused(name, cost, at, waited, retry_after, max_wait, call, costs=<factory>)
  Waiting(name, cost, at, until, waited, call, costs=<factory>)
nekkar.rules
  Explanation = nekkar
  Fault(line, where, message)
  Match = nekkar
  Rule = nekkar
  RuleTable = nekkar
  faults(path)
nekkar.requests
  NekkarAdapter(limiter, rules, adapter=None, *, max_wait=None, refused=None, **http_adapter_args): HTTPAdapter
    .send(request, *args, **kwargs)
    .close()
  RequestCacheError(*args, **kwargs): CacheError, ConnectionError
  RequestConfigurationError(*args, **kwargs): RequestException, ConfigurationError
  RequestCorruptLog(*args, **kwargs): CorruptLog, RequestCacheError
  RequestWaitTooLong(name, retry_after, max_wait, request=None): WaitTooLong, Timeout
  limit(session, limiter, rules, *, max_wait=None, refused=None)
  options(*, cost=None, max_wait=None, headroom=None)
nekkar.httpx
  AsyncNekkarTransport(limiter, rules, transport=None, *, max_wait=None, refused=None, **http_transport_args): AsyncBaseTransport
    await .handle_async_request(request)
    await .aclose()
    await .__aenter__()
  NekkarTransport(limiter, rules, transport=None, *, max_wait=None, refused=None, **http_transport_args): BaseTransport
    .handle_request(request)
    .close()
    .__enter__()
  RequestCacheError(message, *, request=None): CacheError, TransportError
  RequestConfigurationError(message, *, request=None): TransportError, ConfigurationError
  RequestCorruptLog(message, *, request=None): RequestCacheError, CorruptLog
  RequestWaitTooLong(name, retry_after, max_wait, request=None): WaitTooLong, TimeoutException
  limit(client, limiter, rules, *, max_wait=None, refused=None)
nekkar.httpx2
  AsyncNekkarTransport(limiter, rules, transport=None, *, max_wait=None, refused=None, **http_transport_args): AsyncBaseTransport
    await .handle_async_request(request)
    await .aclose()
    await .__aenter__()
  NekkarTransport(limiter, rules, transport=None, *, max_wait=None, refused=None, **http_transport_args): BaseTransport
    .handle_request(request)
    .close()
    .__enter__()
  RequestCacheError(message, *, request=None): CacheError, TransportError
  RequestConfigurationError(message, *, request=None): TransportError, ConfigurationError
  RequestCorruptLog(message, *, request=None): RequestCacheError, CorruptLog
  RequestWaitTooLong(name, retry_after, max_wait, request=None): WaitTooLong, TimeoutException
  limit(client, limiter, rules, *, max_wait=None, refused=None)
nekkar.meters
  Anthropic(default_output=1024, tokenizer=None)
    .for_stream()
    .measure_event(data)
    .estimate(request)
    .measure(response)
  Meter: Protocol
    .estimate(request)
    .measure(response)
  OpenAI(default_output=1024, tokenizer=None)
    .measure_event(data)
    .estimate(request)
    .measure(response)
  Request: Protocol
    .json()
  Response: Protocol
    .json()
nekkar.redis
  RedisCache(host='localhost', port=6379, db=0, *, timeout=1.0, **options): BaseCache
    .add(key, value)
    .get(key)
    .set(key, value)
    .delete(key)
    .gets(key)
    .cas(key, value, token, ttl)
    .tell_time(now)
nekkar.testing
  CacheConformance()
    .make_cache()
    .make_unreachable()
  FakeClock(start=1700000000.0, *, jump=True)
    .now_us()
    .now
    .advance(seconds)
    .sleep_until(at_us, wake)
    await .sleep_until_async(at_us, wake)
  START_US
  assert_never_over(times, rate_limit, *, period=None)
nekkar.progress
  Progress(stream=None, *, least=1.0)
    .__call__(event)
nekkar.opentelemetry
  instrument(limiter, rules=None, meter_provider=None)
"""  # noqa: E501

# No page of the reference lists what these show: it may change.
PRIVATE = {"cli", "demo", "http", "plan", "plot", "tables"}
MADE_BY_NEKKAR = {"Limit", "Listening"}
SPECIAL = {"__call__", "__enter__", "__aenter__", "__and__"}
MODULES = [line for line in TABLE.splitlines() if line.startswith("nekkar")]


def signature(value: Any, *, bound: bool = False) -> str:
    """Return the arguments of a callable with their defaults, of a method without the first; empty for an error's."""
    try:
        found = inspect.signature(value)
    except ValueError:  # an exception that takes what all do
        return ""
    parameters = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    return str(found.replace(parameters=parameters[bound:], return_annotation=inspect.Signature.empty))


def members(kind: type) -> Iterator[str]:
    """Yield a line for each method and property that a class defines itself, or has of a private body."""
    found: dict[str, Any] = {}
    for each in (kind, *bodies(kind)):
        found |= {name: value for name, value in vars(each).items() if name not in found}
    for name, value in found.items():
        if name.startswith(("test_", "_")) and name not in SPECIAL:
            continue
        if isinstance(value, property):
            yield f"    .{name}"
        elif callable(value) or isinstance(value, classmethod):
            wait = "await " if inspect.iscoroutinefunction(value) else ""
            yield f"    {wait}.{name}{signature(getattr(kind, name), bound=not isinstance(value, classmethod))}"


def bodies(kind: type) -> list[type]:
    """Return what a class inherits that is private: from ``nekkar.http``, or from a class with an underscore."""
    return [base for base in kind.__mro__ if base.__module__.startswith("nekkar.http.") or base.__name__[0] == "_"]


def described(name: str, kind: type) -> Iterator[str]:
    """Yield the lines of a class."""
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base not in (object, *bodies(kind)))
    made = "" if name in MADE_BY_NEKKAR or "Protocol" in bases else signature(kind)
    yield f"  {name}{made}{bases and f': {bases}'}"
    yield from members(kind)


def lines(modules: list[str]) -> Iterator[str]:
    """Yield the lines of the table."""
    seen: dict[int, str] = {}
    for module in modules:
        yield module
        shown = importlib.import_module(module)
        for name in sorted(shown.__all__):
            value = getattr(shown, name)
            if id(value) in seen:
                yield f"  {name} = {seen[id(value)]}"
            elif inspect.isclass(value):
                yield from described(name, value)
            else:
                yield f"  {name}{signature(value) if inspect.isroutine(value) else ''}"
            seen[id(value)] = module


def test_the_public_interface_is_what_the_table_says() -> None:
    """Each name with its arguments and defaults, no more and no less."""
    assert "\n".join(lines(MODULES)) == TABLE.strip("\n")


def test_a_limit_of_several_has_what_one_has_but_the_levers() -> None:
    """``a & b``: with the same arguments; what changes a limit for all is called on each."""
    one, several = set(members(Limit)), set(members(JointLimit))
    levers = {line for line in one if re.search(r"\.(hold|release|reset)(_async)?\(", line)}
    assert several == one - levers - {"    .headroom"}
    assert len(levers) == 6
    assert set(inspect.signature(JointAdmission).parameters) - set(inspect.signature(Admission).parameters) == {"parts"}


def test_each_module_is_in_the_table_or_private() -> None:
    """A new module of the package is one or the other."""
    found = {module.name for module in pkgutil.iter_modules(nekkar.__path__)} - {"__main__", "core"}
    assert found == PRIVATE | {name.split(".")[1] for name in MODULES if "." in name} - {"core"}


@pytest.mark.parametrize("module", MODULES)
def test_a_star_gives_what_is_shown(module: str) -> None:
    """``from module import *`` gives the names of the table alone."""
    given: dict[str, Any] = {}
    exec(f"from {module} import *", given)
    assert given.keys() - {"__builtins__"} == set(importlib.import_module(module).__all__)


def test_the_changelog_has_a_heading_for_the_version() -> None:
    """What is to be released is told, newest first."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == version
