"""What comes from outside is shown as text: on a terminal, in JSON and in errors."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.padding import Padding

import sweepctl
from sweepctl.cli import main
from sweepctl.report.console import BOLD, END, RED, TextConsole, printable, show_json, table

HOSTILE = [
    "KeyError: '[/]' [/red] [bold]x",
    "[link=http://x]y[/link] :boom: [not a tag",
    "\x1b[2J\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x9b31mred \x1bc",
    "\x1b]0;no end\nnext line",
    "10%\r20%\r\ndone",
    "\u202egnirts\u2066",
    "\udcff\udc80 of no encoding",
    "\x0e\x0eb\x0f\x0f\x0ez",
    "\x00\x07\x08\x7f",
]


def shown(*renderables: object) -> str:
    out = io.StringIO()
    console = TextConsole(file=out, width=200, highlight=False, force_terminal=True, color_system="standard")
    for renderable in renderables:
        console.print(renderable)
    return out.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_is_obeyed(text: str) -> None:
    rows = [[text, "1"], [f"{RED}{text}{END}", "2"]]
    for place in (text, Padding(text, 1), table(text, ["a", text], rows), f"{BOLD}{text}{END}"):
        plain = re.sub(r"\x1b\[[\d;]*m", "", shown(place))  # rich's own colours
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", plain)
    for word in ("[/]", "[/red]", "[bold]x", "[link=http://x]", ":boom:", "[not", "next line", "done"):
        assert (word in shown(text)) == (word in text)


def test_styles_of_our_own_are_shown() -> None:
    assert shown(f"{RED}no{END} yes") == "\x1b[31mno\x1b[0m yes\n"
    assert (
        shown(f"{END}{BOLD}{RED}both{END} one{END} none") == "\x1b[1;31mboth\x1b[0m\x1b[1m one\x1b[0m none\n"
    )


@given(st.text())
def test_any_text_can_be_printed(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    shown(text, table(text, [text, text], [[text, text]]))


@pytest.mark.parametrize("text", HOSTILE)
def test_json_is_the_same_text_in_bytes_that_no_terminal_obeys(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_json({"error": text})
    out = capsys.readouterr().out
    assert json.loads(out) == {"error": text}
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", out)


def test_an_error_is_text_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["sweepctl", "status", "\x1b[31m[/]\udcff"])
    with pytest.raises(SystemExit):
        main()
    error = capsys.readouterr().err
    assert error.startswith("sweepctl: ") and "\x1b" not in error and "[/]" in error


def test_everything_printed_goes_through_the_one_door() -> None:
    """Markup of rich, and consoles of its own, are in no other module."""
    for path in sorted(Path(sweepctl.__file__).parent.rglob("*.py")):
        text = path.read_text()
        if path.name != "console.py":
            assert "rich.markup" not in text and "from_markup" not in text, path
            assert not re.search(r"(?<!\w)Console\(|\[/\]|\[(bold|dim|red|green|yellow)[\] ]", text), path
            assert len(re.findall(r"TextColumn\(", text)) == len(
                re.findall(r"TextColumn\(.*markup=False", text)
            )
