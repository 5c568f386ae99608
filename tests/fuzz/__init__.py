"""Fuzzing: `targets` says what, `__main__` runs one of them under atheris; `python -m fuzz policy --seconds 60`."""
