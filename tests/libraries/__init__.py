"""Whether libraries that people use work as guests: `python -m tests.libraries` writes docs/libraries.md's table."""
