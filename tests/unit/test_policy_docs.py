"""The examples of docs/policy.md are true, and so is what it says of keys, rights and presets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyisolate.policy import Policy
from pyisolate.policy.compiled import Limits
from pyisolate.policy.load import PRESETS, load_bytes
from pyisolate.policy.rules import FILE_RIGHTS
from pyisolate.policy.schema import TOP_KEYS
from pyisolate.policy.units import IMPORT_VARIABLES, LIMIT_KEYS, PATH_VARIABLES

TEXT = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_python_examples_run(code: str) -> None:
    exec(compile(code, "docs/policy.md", "exec"), {})


def test_the_policy_file_example_loads_and_shows_every_key_and_default() -> None:
    text = next(code for language, code in BLOCKS if language == "yaml")
    policy = load_bytes(text.encode())
    assert all(re.search(rf"^{key}:", text, re.MULTILINE) for key in TOP_KEYS)
    assert all(f"{key}: " in text for key in LIMIT_KEYS)
    assert policy.limits == Limits()
    assert policy.random_seed == 7


def test_every_word_is_explained() -> None:
    for word in (*FILE_RIGHTS, *PRESETS, *PATH_VARIABLES, *IMPORT_VARIABLES):
        assert f"`{word}`" in TEXT, word
    assert Policy.preset("data").limits.memory_bytes == 2 << 30
