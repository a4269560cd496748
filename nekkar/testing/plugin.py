"""The plugin that pytest loads by entry point. It names the module of the fixtures, and has none itself.

So the fixtures are loaded once even if ``-p nekkar.testing.fixtures`` or a conftest's ``pytest_plugins`` asks for them
too; pytest refuses a module that is loaded under two names.
"""

pytest_plugins = ["nekkar.testing.fixtures"]
