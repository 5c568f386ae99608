"""Predict another sandbox's random numbers: the twin that compares."""

import os
import random
import secrets
import uuid

from tests.escape.technique import Alone, Technique


def attack(world):
    print("STATE:", random.getrandbits(64), secrets.token_hex(4), uuid.uuid4().hex, os.urandom(4).hex())


def outside(ground, run):
    seen = ground.__dict__.setdefault("random_states", set())
    lines = [line for line in run.text.splitlines() if line.startswith("STATE:")]
    twice = seen & {word for line in lines for word in line.split()[1:]}
    return f"the same numbers came twice: {twice}" if twice else ""


TECHNIQUE = Technique(
    source="Debian and Heroku: forked workers share a seed; random documentation",
    effect=outside,
    no_event="nothing is refused: each cell is seeded afresh",
    stops=("supervisor",),
    control=Alone("two cells are compared: this technique's and secrets/random_state's"),
)
