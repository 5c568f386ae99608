"""Rich results: forms in the guest, and what the host makes of a bundle."""

from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from pyisolate.cell import wire
from pyisolate.cell.display import Display, bundle_of
from pyisolate.sandbox.rich import RichOutput


class Rich:
    def _repr_html_(self) -> str:
        return "<b>x</b>"

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return b"\x89PNG", {"width": 3}

    def _repr_latex_(self) -> str:
        raise RuntimeError("no form")

    def __repr__(self) -> str:
        return "Rich()"


class Bundle:
    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return {"text/x": "t", "application/json": {"a": [1]}, "a/b": object()}, {"text/x": {"k": 1, "no": [1]}, "y": 2}


class Everything:
    def __getattr__(self, name: str) -> Any:
        return lambda *_arguments, **_options: "x"


def test_an_object_shows_in_every_form_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    data, metadata = bundle_of(Rich())
    assert data == {"text/html": "<b>x</b>", "image/png": b"\x89PNG", "text/plain": "Rich()"}
    assert metadata == {"image/png": {"width": 3}}
    assert "no form" in capsys.readouterr().err  # the form that failed


def test_a_mimebundle_is_kept_as_far_as_it_has_forms() -> None:
    data, metadata = bundle_of(Bundle())
    assert {"text/x": "t", "application/json": '{"a": [1]}'}.items() <= data.items()
    assert "a/b" not in data
    assert metadata == {"text/x": {"k": 1}}


@pytest.mark.parametrize("value", [Rich, 1, "x", Everything()])
def test_what_has_no_forms_of_its_own_shows_as_text(value: Any) -> None:
    assert list(bundle_of(value)[0]) == ["text/plain"]


def test_a_request_displays_so_much_and_no_more() -> None:
    sent: list[wire.GuestFrame] = []
    display = Display(sent.append)
    for _ in range(2):
        display.begin()
        for number in range(wire.MAX_SHOWN):
            display.display(number)
        with pytest.raises(ValueError, match="outputs"):
            display.display(1)
    assert len(sent) == 2 * wire.MAX_SHOWN
    display.begin()
    with pytest.raises(ValueError, match="bytes"):
        display.display("x" * (wire.MAX_SHOWN_BYTES + 1))


def test_a_last_value_is_shown_only_where_it_has_more_than_its_text() -> None:
    sent: list[Any] = []
    display = Display(sent.append)
    for value in (None, 1, "x", [Rich()], object()):
        display.result(value)
    assert sent == []
    display.result(Rich())
    assert sent[0].kind == "execute_result"


OUTPUT = RichOutput(
    kind="execute_result",
    data={"text/html": "<script>1</script>", "image/png": b"\x89PNG", "text/plain": "x", "application/json": "[1]",
          "image/svg+xml": "<svg/>", "a/../b": "?", "image/jpeg": base64.b64encode(b"\xff\xd8").decode()},
)  # fmt: skip


def test_what_can_run_code_is_marked() -> None:
    assert OUTPUT.untrusted == ("text/html", "image/svg+xml", "a/../b")
    notebook = OUTPUT.to_jupyter()
    assert (notebook["output_type"], notebook["execution_count"]) == ("execute_result", None)
    assert notebook["data"]["image/png"] == base64.b64encode(b"\x89PNG").decode()
    assert notebook["data"]["application/json"] == [1]
    assert notebook["metadata"]["pyisolate"]["untrusted"] == list(OUTPUT.untrusted)
    assert pickle.loads(pickle.dumps(OUTPUT)) == OUTPUT


def test_it_saves_itself_under_names_of_the_hosts(tmp_path: Path) -> None:
    saved = {path.name: path.read_bytes() for path in OUTPUT.save(tmp_path, "001")}
    assert set(saved) == {"001.untrusted.html", "001.png", "001.txt", "001.json", "001.untrusted.svg",
                          "001.untrusted.5.bin", "001.jpg"}  # fmt: skip
    assert saved["001.png"] == b"\x89PNG"
    assert saved["001.jpg"] == b"\xff\xd8"
    page = saved["001.untrusted.html"].decode()
    assert page.index("default-src 'none'") < page.index("<script>")


def test_a_link_that_lies_there_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("001.txt", "001.png"):
        os.symlink(victim, folder / name)
    OUTPUT.save(folder, "001")
    assert victim.read_text() == "mine"
    assert (folder / "001.txt").read_text() == "x"
