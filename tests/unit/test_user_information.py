"""User names and passwords of URLs do not reach events; other targets stay as they are."""

from __future__ import annotations

import time

import pytest

from pyisolate.telemetry.sanitize import hide_in_text, show_target


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("http://user:PASSWORD@host/path", "http://***@host/path"),
        ("/http:/user:PASSWORD@host/path", "/http:/***@host/path"),
        ("HTTPS://TOKEN@host", "HTTPS://***@host"),
        ("postgresql+psycopg://u:p@ss@db:5432/x", "postgresql+psycopg://***@db:5432/x"),
        ("ftp://u:p w\n@host", "ftp://***@host"),
        ("[user:PASSWORD@host]:80", "[***@host]:80"),
        ("/a/http://u:P@one/ftp://u:P@two", "/a/http://***@one/ftp://***@two"),
    ],
)
def test_user_information_is_left_out(target: str, shown: str) -> None:
    assert show_target(target) == shown


@pytest.mark.parametrize(
    "target",
    ["/home/me@work/file", "http://host/@me", "unix:@abstract", "user@host:80", "[::1]:80", "/srv/getty@tty1.service"],
)
def test_other_targets_stay(target: str) -> None:
    assert show_target(target) == target


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET http://host failed, tell a@b", "GET http://host failed, tell a@b"),
        ("GET http://u:P@host failed, tell a@b", "GET http://***@host failed, tell a@b"),
        ("at http://one\nby ftp://u:P@two/\n[u:P@three]", "at http://one\nby ftp://***@two/\n[***@three]"),
    ],
)
def test_of_a_text_no_other_word_is_taken_for_user_information(text: str, shown: str) -> None:
    assert hide_in_text(text) == shown


def test_a_long_target_is_searched_in_linear_time() -> None:
    began = time.perf_counter()
    for text in ("a" * 100_000 + "@", "a:/" * 50_000 + "@", "a:" * 50_000 + "@"):
        show_target(text)
    assert time.perf_counter() - began < 1
