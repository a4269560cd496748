"""What pytest loads by entry point: the fixtures, by their module's name.

So they are loaded once where they are also asked for as ``-p nekkar.testing.fixtures``, or in a conftest's
``pytest_plugins``; pytest refuses a module that comes under two names.
"""

pytest_plugins = ["nekkar.testing.fixtures"]
