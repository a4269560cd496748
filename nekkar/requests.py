"""requests: an adapter that makes each request wait for its slot.

    session.mount("https://", NekkarAdapter(limiter, rules))

The request's method and URL are resolved to a limit through the rule table; the adapter waits until the
limit admits the call, then sends it. The wait is outside the HTTP timeouts. Every hop of a redirect and
every step of an authentication is a request of its own, and waits for its own slot.
"""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter

from nekkar.core.errors import CacheError, ConfigurationError, WaitTooLong, shown
from nekkar.core.limiter import Admission, Nekkar
from nekkar.gate import NO_OPTIONS, Gate
from nekkar.rules import RuleTable

__all__ = ["NekkarAdapter", "RequestCacheError", "RequestWaitTooLong"]


class RequestWaitTooLong(WaitTooLong, requests.exceptions.Timeout):
    """A ``WaitTooLong`` that ``except requests.Timeout`` catches; the request was not sent."""

    def __init__(self, name: str, retry_after: float, max_wait: float, request: Any = None) -> None:
        super().__init__(name, retry_after, max_wait)
        self.request, self.response = request, None


class RequestCacheError(CacheError, requests.exceptions.ConnectionError):
    """A ``CacheError`` that ``except requests.ConnectionError`` catches; the request was not sent."""


class NekkarAdapter(HTTPAdapter):
    """A transport adapter for ``requests.Session.mount`` that waits for the limit of each request.

    ``adapter``: the adapter that sends; else one is made with ``http_adapter_args``, those of
    ``requests.adapters.HTTPAdapter``. ``max_wait``: the longest wait in seconds, before the limit's own.
    Responses carry their admission as ``response.nekkar`` (None where no rule applied).
    Thread-safe; pickles with its limits if the cache does.

    ``send`` blocks, and raises RequestWaitTooLong, RequestCacheError, and what sending raises.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, "_gate", "_adapter"]  # noqa: RUF012  requests' own

    def __init__(
        self,
        limiter: Nekkar,
        rules: RuleTable,
        adapter: BaseAdapter | None = None,
        *,
        max_wait: float | None = None,
        **http_adapter_args: Any,
    ) -> None:
        self._gate = Gate(limiter, rules, max_wait)
        if adapter is not None and (http_adapter_args or not isinstance(adapter, BaseAdapter)):
            also = f" and {', '.join(http_adapter_args)}" if http_adapter_args else ""
            raise ConfigurationError(
                f"adapter {shown(adapter)}{also}: give an adapter to wrap, or arguments to make one, not both"
            )
        self._adapter = adapter
        super().__init__(**http_adapter_args)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Wait for the request's limit, then send it."""
        admission = self._admit(request)
        send = super().send if self._adapter is None else self._adapter.send
        response = send(request, *args, **kwargs)
        response.nekkar = admission  # type: ignore[attr-defined]
        return response

    def close(self) -> None:
        """Close the connections, those of a wrapped adapter too."""
        super().close()
        if self._adapter is not None:
            self._adapter.close()

    def _admit(self, request: requests.PreparedRequest) -> Admission | None:
        limit = self._gate.limit(request.method or "GET", request.url)
        if limit is None:
            return None
        try:
            return limit.acquire(**self._gate.asked(NO_OPTIONS))
        except WaitTooLong as error:
            raise RequestWaitTooLong(error.name, error.retry_after, error.max_wait, request) from error
        except CacheError as error:
            raise RequestCacheError(*error.args, request=request) from error
