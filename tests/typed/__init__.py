"""Programs of users, as a type checker sees them: mypy reads them with the tests, and pytest runs them."""
