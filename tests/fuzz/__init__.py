"""Fuzzing: `targets` lists what is fuzzed, `python -m tests.fuzz policy --seconds 60` runs one under atheris."""
