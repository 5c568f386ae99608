"""Policy text is hostile: whatever it holds, the answer is a policy or a PolicySyntaxError that says where."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyisolate.errors import PolicySyntaxError
from pyisolate.policy import Policy
from pyisolate.policy.load import MAX_BYTES, load_bytes, load_path

DESIGN = b"""\
version: 1
name: report
mode: enforce                      # or monitor
fs:
  - {path: /srv/data, allow: [read]}
  - {path: /srv/data/private, deny: [read]}
  - {path: /srv/out, allow: [read, write, create, delete]}
net:
  - {connect: "10.0.0.0/8:443"}
  - {connect: "db.internal:5432"}
  - {bind: "127.0.0.1:0"}
process:
  - {exec: /usr/bin/git}
import: {allow: [json, "numpy.*"], native: [numpy]}
limits: {wall: 30s, cpu: 10s, memory: 256MiB, processes: 16, open_files: 64, output: 1MiB, messages: 1000}
"""

TOML = b"""\
version = 1
name = "report"
mode = "enforce"

[[fs]]
path = "/srv/data"
allow = ["read"]
[[fs]]
path = "/srv/data/private"
deny = ["read"]
[[fs]]
path = "/srv/out"
allow = ["read", "write", "create", "delete"]

[[net]]
connect = "10.0.0.0/8:443"
[[net]]
connect = "db.internal:5432"
[[net]]
bind = "127.0.0.1:0"

[[process]]
exec = "/usr/bin/git"

[import]
allow = ["json", "numpy.*"]
native = ["numpy"]

[limits]
wall = "30s"
cpu = "10s"
memory = "256MiB"
processes = 16
open_files = 64
output = "1MiB"
messages = 1000
"""


def _error(text: bytes, format: str = "yaml") -> PolicySyntaxError:
    with pytest.raises(PolicySyntaxError) as caught:
        load_bytes(text, format=format, file="p.yaml")
    assert caught.value.hint, "every complaint says what to do"
    assert caught.value.file == "p.yaml"
    return caught.value


def test_the_three_formats_mean_the_same(tmp_path: Path) -> None:
    policy = load_bytes(DESIGN)
    assert load_bytes(TOML, format="toml") == policy
    assert load_bytes(json.dumps(policy.to_dict()).encode(), format="json") == policy
    for name, text in (("p.yaml", DESIGN), ("p.toml", TOML), ("p.json", json.dumps(policy.to_dict()).encode())):
        (tmp_path / name).write_bytes(text)
        assert Policy.load(tmp_path / name) == policy
        assert Policy.load(str(tmp_path / name)).version == policy.version
    built = (
        Policy(name="report")
        .allow_read("/srv/data")
        .deny("fs.read", "/srv/data/private")
        .allow_read("/srv/out")
        .allow_write("/srv/out")
        .allow_connect("10.0.0.0/8:443")
        .allow_connect("db.internal:5432")
        .allow_bind("127.0.0.1:0")
        .allow_exec("/usr/bin/git")
        .allow_import("json", "numpy")
        .allow_native("numpy")
    )
    assert built == policy


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        ("version: 2", 1, "version", "unknown policy format"),
        ("version: true", 1, "version", "unknown policy format"),
        ("version: 1\nmod: enforce", 2, "mod", "did you mean 'mode'"),
        ("mode: permissive", 1, "mode", "enforce or monitor"),
        ("mode: [enforce]", 1, "mode", "unknown mode"),
        ("fs:\n  - path: /srv\n    alow: [read]", 3, "fs[0].alow", "did you mean 'allow'"),
        ("fs:\n  - {path: /srv, allow: [raed]}", 2, "fs[0].allow[0]", "did you mean 'read'"),
        ("fs:\n  - {path: /srv, allow: read}", 2, "fs[0].allow", "expected a list"),
        ("fs:\n  - {path: srv, allow: [read]}", 2, "fs[0].path", "relative"),
        ("fs:\n  - {path: /srv/../etc, allow: [read]}", 2, "fs[0].path", "'..'"),
        ("fs:\n  - {path: ~/data, allow: [read]}", 2, "fs[0].path", "not expanded"),
        ("fs:\n  - {path: /srv/*.csv, allow: [read]}", 2, "fs[0].path", "pattern"),
        ('fs:\n  - {path: "/srv\\0x", allow: [read]}', 2, "fs[0].path", "control character"),
        ('fs:\n  - {path: "/srv\\nx", allow: [read]}', 2, "fs[0].path", "control character"),
        ("fs:\n  - {path: true, allow: [read]}", 2, "fs[0].path", "boolean"),
        ("fs:\n  - {path: /srv, allow: [true]}", 2, "fs[0].allow[0]", "unknown right"),
        ("fs:\n  - {path: 12, allow: [read]}", 2, "fs[0].path", "expected text"),
        ("fs:\n  - {path: /srv}", 2, "fs[0]", "neither allows nor denies"),
        ("fs:\n  - {allow: [read]}", 2, "fs[0]", "no path"),
        ("fs:\n  - {path: '@interpeter', allow: [read]}", 2, "fs[0].path", "did you mean '@interpreter'"),
        ("fs:\n  - {path: /a, allow: [read]}\n  - {path: /a/, deny: [read]}", 3, "fs[1].deny[0]", "both allows and"),
        ("fs: {path: /srv}", 1, "fs", "expected a list"),
        ("net:\n  - {connect: example.org}", 2, "net[0].connect", "no port"),
        ('net:\n  - {connect: ":443"}', 2, "net[0].connect", "no host"),
        ("net:\n  - {connect: 10.0.0.1/8:443}", 2, "net[0].connect", "host bits"),
        ("net:\n  - {connect: 10.0.0.256:443}", 2, "net[0].connect", "IPv4"),
        ("net:\n  - {connect: 10.0.0.0/33:443}", 2, "net[0].connect", "IPv4"),
        ("net:\n  - {connect: example.org:65536}", 2, "net[0].connect", "out of range"),
        ("net:\n  - {connect: example.org:0}", 2, "net[0].connect", "port 0"),
        ("net:\n  - {connect: example.org:90-80}", 2, "net[0].connect", "backwards"),
        ("net:\n  - {connect: example.org:http}", 2, "net[0].connect", "bad port"),
        ("net:\n  - {connect: '*.*.org:443'}", 2, "net[0].connect", "wildcard"),
        ("net:\n  - {connect: '[::ffff:1.2.3.4]:443'}", 2, "net[0].connect", "IPv4 address"),
        ("net:\n  - {connect: 'fe80::1:443'}", 2, "net[0].connect", "no port"),
        ("net:\n  - {connect: 'unix:run/x'}", 2, "net[0].connect", "relative"),
        ("net:\n  - {bind: '127.0.0.1:0-80'}", 2, "net[0].bind", "port 0"),
        ("net:\n  - {connect: 'a:1', bind: 'a:1'}", 2, "net[0]", "exactly one"),
        ("net:\n  - {connect: 'a:1', deny: 1}", 2, "net[0].deny", "true or false"),
        ("net:\n  - {connect: 'a:1'}\n  - {connect: 'A.:1', deny: true}", 3, "net[1]", "both allowed and denied"),
        ("process:\n  - {exec: git}", 2, "process[0].exec", "relative"),
        ("process:\n  - {fork: maybe}", 2, "process[0].fork", "true or false"),
        ("process:\n  - {exec: /bin/x, fork: true}", 2, "process[0]", "cannot be read"),
        ("import: {allow: [scikit-learn]}", 1, "import.allow[0]", "'scikit_learn'"),
        ("import: {allow: ['num*']}", 1, "import.allow[0]", "not a module name"),
        ("import: {allow: [1]}", 1, "import.allow[0]", "expected text"),
        ("import: {allow: [json], deny: [json]}", 1, "import.deny[0]", "both allowed and denied"),
        ("random: {allow: true, seed: 7}", 1, "random.seed", "no effect"),
        ("random: {allow: 'no'}", 1, "random.allow", "true or false"),
        ("limits: {wall: 5x}", 1, "limits.wall", "cannot be read"),
        ("limits:\n  memory: -1", 2, "limits.memory", "-1: out of range"),
        ("limits:\n  memory: true", 2, "limits.memory", "bool"),
        ("limits:\n  memory: 0.0000000001s", 2, "limits.memory", "cannot be read"),
        ("limits:\n  processes: 1.5", 2, "limits.processes", "whole number"),
        ("limits:\n  memry: 1", 2, "limits.memry", "did you mean 'memory'"),
        ("extends: compte", 1, "extends", "did you mean 'compute'"),
        ("modes: {fs: audit}", 1, "modes.fs", "unknown mode"),
        ("modes: {files: monitor}", 1, "modes.files", "unknown key"),
        ("name: ''", 1, "name", "empty"),
        ("name: ok\nname: twice", 2, "name", "duplicate key"),
        ("a: &a [1]\nb: *a", 1, None, "anchors"),
        ("a: *a", 1, None, "aliases"),
        ("a: !!python/object:os.system {}", 1, None, "tag"),
        ("? [1]\n: 2", 1, None, "key"),
        ("---\nname: x\n---\nname: y", 3, None, "more than one document"),
        ("name: x\n\tmode: enforce", 2, None, "cannot be read"),
        ("- 1", 1, None, "expected a mapping"),
        ("", None, None, "expected a mapping"),
    ],
)  # fmt: skip
def test_yaml_mistakes_are_named_with_line_key_and_hint(text: str, line: int, key: str, says: str) -> None:
    error = _error(text.encode())
    assert says in str(error)
    assert error.line == line
    assert error.key == key


def test_a_boolean_or_number_like_word_is_text_where_text_is_meant() -> None:
    policy = load_bytes(b"import: {allow: [on, yes, off]}")
    assert [rule.name for rule in policy.imports] == ["off", "on", "yes"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (b'version = 1\nname = "x"\n\n[limits]\nwal = 3', 5, "did you mean 'wall'"),
        (b'[[fs]]\npath = "/a"\nallow = ["read"]\n[[fs]]\npath = "b"\nallow = ["read"]', 5, "relative"),
        (b"version = 1\nversion = 1\n\n", 2, "overwrite"),
        (b"version = = 1", 1, "cannot be read"),
        (b"[[fs]]\npath = 1979-05-27\nallow=['read']", 2, "expected text"),
    ],
)
def test_toml_mistakes_are_named_with_their_line(text: bytes, line: int, says: str) -> None:
    error = _error(text, "toml")
    assert says in str(error)
    assert error.line == line


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (b'{"version": 1,\n "limits": {"wal": 3}}', 2, "did you mean 'wall'"),
        (b'{"version": 1,\n "version": 1}', None, "duplicate key"),
        (b'{"version": 1,\n}', 1 if sys.version_info >= (3, 13) else 2, "cannot be read"),  # the comma, the brace
        (b'{"limits": {"wall": NaN}}', None, "not JSON"),
        (b'{"limits": {"wall": 1e999}}', 1, "out of range"),
        (b'{"fs": [{"path": "/\\ud800", "allow": ["read"]}]}', None, "UTF-8"),
        (b'{"limits": {"wall": ' + b"9" * 5000 + b"}}", None, "cannot be read"),
    ],
)
def test_json_mistakes_are_named(text: bytes, line: int | None, says: str) -> None:
    error = _error(text, "json")
    assert says in str(error)
    if line is not None:
        assert error.line == line


@pytest.mark.parametrize("format", ["yaml", "json", "toml"])
@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"{" * 100_000,
        b"a = " + b"[" * 100_000,
        b'{"a":' * 50_000,
        b"- " * 100_000,
        b"a:\n " * 50_000,
        b"? " * 100_000,
        b"x = {" + b"a.b = {" * 30_000,
        b".".join([b"a"] * 60_000) + b" = 1",
        b"[" + b".".join([b"a"] * 60_000) + b"]",
        b"a" * (MAX_BYTES + 1),
        b'"' * 200_000,
        b"'" * 200_000,
        b"&a " * 80_000,
        b"[" + b"1," * 100_000 + b"1]",
        b"#" * 250_000 + b"\n=",
        b"\xff\xfe",
        b"\x00",
        b"%YAML 9.9\n---\na: 1",
        b'"\\U7fffffff"',
        b'name: "\\ud800"',
        b"\xef\xbb\xbf]",
    ],
    ids=range(22),
)
def test_bombs_are_refused_quickly(text: bytes, format: str) -> None:
    started = time.process_time()
    _error(text, format)
    assert time.process_time() - started < 5


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert load_bytes(b"\xef\xbb\xbf" + DESIGN) == load_bytes(DESIGN)


def test_long_junk_is_not_echoed_whole() -> None:
    assert len(str(_error(b'fs: [{path: "' + b"a" * 200_000 + b'", allow: [read]}]'))) < 600
    assert len(str(_error(b"? " + b"k" * 900 + b"\n: 1"))) < 600


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_path(tmp_path / "absent.yaml")


# -- fuzz -------------------------------------------------------------------------------------------------------------

_VOCABULARY = (
    "version name mode fs net process import random limits path allow deny connect bind exec fork native literal "
    "modes extends seed wall memory read write /srv /srv/../x * *:1 [::1]:1 10.0.0.0/8:443 1 -1 1e9 true null ~ & * ! "
    "compute @interpreter 5s 1MiB"
)
_WORDS = st.sampled_from(_VOCABULARY.split())
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=8), inner, max_size=5),
    max_leaves=25,
)


def _only_policy_errors(text: bytes, format: str) -> None:
    try:
        policy = load_bytes(text, format=format)
    except PolicySyntaxError:
        return
    assert load_bytes(policy.to_yaml().encode()) == policy


@given(st.binary(max_size=400), st.sampled_from(["yaml", "toml", "json"]))
@settings(max_examples=300)
@example(b"\x85", "yaml")
@example(b'"\\x', "yaml")
def test_any_bytes(text: bytes, format: str) -> None:
    _only_policy_errors(text, format)


@given(
    st.lists(_WORDS | st.sampled_from(list("{}[],:-\n \"'#=.")), max_size=60), st.sampled_from(["yaml", "toml", "json"])
)
@settings(max_examples=400)
def test_any_words(words: list[str], format: str) -> None:
    _only_policy_errors("".join(words).encode(), format)


@pytest.mark.slow
@given(_JSON)
@settings(max_examples=300)
def test_any_plain_data(data: object) -> None:
    try:
        policy = Policy.from_dict(data)  # type: ignore[arg-type]
    except PolicySyntaxError:
        return
    assert load_bytes(policy.to_yaml().encode()) == policy


@given(st.integers(0, len(DESIGN) - 1), st.binary(min_size=1, max_size=3))
@settings(max_examples=300)
def test_a_damaged_policy(at: int, junk: bytes) -> None:
    _only_policy_errors(DESIGN[:at] + junk + DESIGN[at + 1 :], "yaml")


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_mutated_policies_for_as_long_as_asked(fuzz_seconds: float) -> None:
    rng = random.Random()
    seed = rng.getrandbits(64)
    rng.seed(seed)
    corpus = {"yaml": [DESIGN], "toml": [TOML], "json": [json.dumps(load_bytes(DESIGN).to_dict()).encode()]}
    tokens = [word.encode() for word in _VOCABULARY.split()] + [
        b"\n",
        b"  ",
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"\x00",
        b"\xff",
    ]
    until = time.monotonic() + fuzz_seconds
    while time.monotonic() < until:
        format = rng.choice(list(corpus))
        text = bytearray(rng.choice(corpus[format]))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(text) + 1)
            text[at : at + rng.choice([0, 0, 1, 3, 20])] = rng.choice(tokens)
        started = time.monotonic()
        try:
            _only_policy_errors(bytes(text), format)
        except BaseException:
            print(f"seed {seed}, {format}: {bytes(text)!r}")
            raise
        assert time.monotonic() - started < 5
        if len(corpus[format]) < 200:
            corpus[format].append(bytes(text[:4000]))
