"""From an HTTP request to its limit, and from its response back; names no class of any HTTP library."""
