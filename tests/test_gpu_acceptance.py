"""What `make gpu-acceptance` runs on a GPU, in small on this CPU, so that it is right when there is a GPU."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.lines import LINES, Line, groups
from benchmarks.gpu.processes import run_group, variables
from benchmarks.gpu.setting import Row, Setting, each

IN_THIS_PROCESS = [line.name for line in LINES if line.name != "preparations"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    rows = list(importlib.import_module("benchmarks.gpu.preparations").rows(setting(folder)))
    assert [row.verdict for row in rows] == ["holds", "figure", "figure"], rows
    return folder


def setting(home: Path, **changes: Any) -> Setting:
    values = {
        "device": "cpu",
        "depths": (1,),
        "quick": True,
        "folder": str(home),
        "peer": None,
        "seconds": 86400,
    }
    return Setting(**{**values, **changes})


@pytest.mark.parametrize("name", IN_THIS_PROCESS)
def test_every_line_runs_in_small(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in variables(setting(home)).items():
        monkeypatch.setenv(key, value)
    rows = list(importlib.import_module(f"benchmarks.gpu.{name}").rows(setting(home)))
    assert rows and not [row for row in rows if row.verdict in ("crashed", "fails")], rows
    skipped = {row.says for row in rows if row.verdict == "skipped"}
    allowed = {
        "needs a GPU",
        "takes too long",
        "not built",
        "--peer names no checkout of it",
        "a CPU has no peak that torch counts",
    }
    assert skipped <= allowed


def test_what_crashes_or_takes_too_long_stops_nobody_else(tmp_path: Path) -> None:
    said: list[tuple[str, str, str]] = []
    logs: dict[str, str] = {}
    bad, slow = Line("nothing_of_that_name", 1, 0, 1), Line("memory", 7, 0, 1)

    def say(number: int, name: str, row: dict[str, Any]) -> None:
        said.append((name, row["verdict"], row["says"]))

    run_group([bad], setting(tmp_path), say, logs)
    run_group([slow], setting(tmp_path, seconds=-8.0), say, logs)
    (name, verdict, says), ended = said
    assert (name, verdict) == ("nothing_of_that_name", "crashed") and "ModuleNotFoundError" in says
    assert ended == ("memory", "skipped", "ended after 0 s")
    assert "ModuleNotFoundError" in logs["nothing_of_that_name"]


def test_a_case_that_raises_is_a_row_and_a_broken_device_ends_the_rest(tmp_path: Path) -> None:
    def look(text: str) -> list[Row]:
        if text:
            raise RuntimeError(text)
        return [Row("fine", "holds", "")]

    texts = ["", "no memory", "", "CUDA error: an illegal memory access was encountered\nmore", ""]
    cases = [(f"case {number}", lambda text=text: look(text)) for number, text in enumerate(texts)]
    rows = list(each(setting(tmp_path), cases))
    assert [row.verdict for row in rows] == ["holds", "crashed", "holds", "crashed", "skipped"]
    assert rows[3].says.endswith("illegal memory access was encountered")
    shares = [[row.what for row in each(setting(tmp_path, part=part, parts=2), cases[:3])] for part in (0, 1)]
    assert shares == [["fine", "fine"], ["case 1"]]
    late = list(each(setting(tmp_path, seconds=-1.0), cases[:2]))
    assert [row.says for row in late] == ["no time was left: case 0; case 1"]


def test_the_whole_writes_json_and_its_exit_code_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    command = ["--device", "cpu", "--quick", "--depths", "1", "--lines", "7", "--out", str(out)]
    assert main(command) == 0, capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["machine"]["torch"] and {row["line"] for row in record["rows"]} == {0, 7}
    assert [line.number for line in groups([7])[1]] == [7]
