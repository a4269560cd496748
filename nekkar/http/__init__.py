"""From an HTTP request to its limit, and from its response back; names no class of any HTTP library.

The way back: ``feedback`` turns an answer into feedback for its limit. ``retry_after`` and ``header_values`` read the
forms of header values, ``ratelimit_headers`` and ``dialects`` the quotas in them, and ``buckets`` finds their limit.
"""
