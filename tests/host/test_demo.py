"""`pyisolate demo`: every attack refused, recorded, counted, and shown to be one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate.cli.demo import attacks, scene, trial
from pyisolate.policy import Policy


def test_the_demo_holds() -> None:
    pytest.importorskip("pandas")
    command = [sys.executable, "-m", "pyisolate.cli.main", "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    document = json.loads(done.stdout)
    assert document["problems"] == []
    assert done.returncode == 0
    assert len(document["attacks"]) >= 24
    assert sum(1 for attack in document["attacks"] if attack["control"]) >= 9
    assert {row["capability"] for row in document["denials_total"]} >= {"fs.read", "net.connect", "process.exec"}


@pytest.fixture
def ground() -> Iterator[scene.Scene]:
    with scene.Scene() as made:
        yield made


def named(name: str) -> attacks.Attack:
    return next(attack for attack in attacks.ATTACKS if attack.name == name)


def test_a_theft_that_succeeds_is_noticed(supervisor: pyisolate.Supervisor, ground: scene.Scene) -> None:
    """With the grant there from the start, the verdict must be that it got through."""
    wide = Policy.preset("compute").allow_read(ground.secret)
    result = trial.attempt(supervisor, wide, dataclasses.replace(named("read a secret"), control=None), ground)
    assert "it got through: the secret came back" in result.problems


@pytest.mark.parametrize("name", ["write outside its directory", "connect out", "send a datagram"])
def test_an_effect_outside_is_noticed(supervisor: pyisolate.Supervisor, ground: scene.Scene, name: str) -> None:
    attack = named(name)
    assert attack.control is not None
    wide = attack.control(Policy.preset("compute"), ground)
    result = trial.attempt(supervisor, wide, dataclasses.replace(attack, control=None), ground)
    assert any(problem.startswith("it got through") for problem in result.problems)


def test_a_missing_event_is_noticed(supervisor: pyisolate.Supervisor, ground: scene.Scene) -> None:
    attack = dataclasses.replace(named("read a secret"), capabilities=("kernel.bpf",), control=None)
    result = trial.attempt(supervisor, Policy.preset("compute"), attack, ground)
    assert any(problem.startswith("no event of kernel.bpf") for problem in result.problems)


def test_the_scene_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    with scene.Scene() as made:
        directory = made.directory
        assert os.environ[scene.VARIABLE] == made.token
    assert not directory.exists()
    assert scene.VARIABLE not in os.environ
