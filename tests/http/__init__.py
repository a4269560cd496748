"""Sessions, clients and SDKs, and what services answer."""
