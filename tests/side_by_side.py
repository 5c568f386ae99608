"""pytest's part of running one tier twice at a time, or once: each file is run by the run that claims it first.

`-p tests.side_by_side --claims DIRECTORY` for both runs, then `--claims DIRECTORY --alone`: what is marked `alone`, and
what failed first. Its verdict by itself counts. What a whole run left behind counts at once.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("side by side")
    group.addoption("--claims", type=Path, required=False, help="the directory that both runs share")
    group.addoption("--alone", action="store_true", help="run what is to run by itself")


def pytest_configure(config: pytest.Config) -> None:
    claims = config.getoption("--claims")
    if claims is not None:
        config.pluginmanager.register(Alone(claims) if config.getoption("--alone") else Beside(claims, config))


class Alone:
    """The second part: one run by itself."""

    def __init__(self, claims: Path) -> None:
        self._failed = {line for file in claims.glob("failed-*") for line in file.read_text().splitlines()}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        keep_only(config, items, [i for i in items if i.get_closest_marker("alone") or i.nodeid in self._failed])


class Beside:
    """One of the two runs."""

    def __init__(self, claims: Path, config: pytest.Config) -> None:
        self._claims, self._config = claims, config
        self._mine: dict[Path, bool] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = [item for item in items if not item.get_closest_marker("alone")]
        if held := set(items) - set(kept):
            self._write("alone", *(item.nodeid for item in held))
        keep_only(config, items, kept)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if item.path not in self._mine:
            self._mine[item.path] = self._claim(item.path)
        return None if self._mine[item.path] else True

    def _claim(self, path: Path) -> bool:
        try:
            (self._claims / f"claim-{path.name}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            what = "left" if "the session left behind" in report.longreprtext else "failed"  # of no one test
            self._write(what, item.nodeid)
        return report

    def _write(self, what: str, *nodes: str) -> None:
        with (self._claims / f"{what}-{os.getpid()}").open("a") as file:
            file.writelines(f"{node}\n" for node in nodes)


def keep_only(config: pytest.Config, items: list[pytest.Item], kept: list[pytest.Item]) -> None:
    chosen = set(kept)
    if left_out := [item for item in items if item not in chosen]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
