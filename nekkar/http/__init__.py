"""From an HTTP request to its limit, and from its response back; names no class of any HTTP library.

The way back: ``feedback`` hears an answer; ``retry_after`` and ``header_values`` read the forms of its headers,
``ratelimit_headers`` and ``dialects`` what they tell, and ``buckets`` says whose that is.
"""
