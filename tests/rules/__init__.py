"""From a URL to a limit's name."""
