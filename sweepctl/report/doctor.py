"""What the doctor found: a line a check, as they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from sweepctl.launch.doctor import Finding
from sweepctl.report.console import many
from sweepctl.spec.build import plain

_SHOWN = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[bold red]FAILED[/]",
          "skipped": "[dim]skipped[/]"}  # fmt: skip
_CHECK, _VERDICT = 15, 9


class DoctorView:
    """Lines on what was found; on a terminal also one on what is waited for."""

    def __init__(self, out: Console | None) -> None:
        self.out = out or Console(quiet=True)
        self._status = Status("", console=self.out, spinner_style="dim")
        if self.out.is_terminal:
            self._status.start()
        self._said = ""

    def say(self, text: str) -> None:
        """What is being waited for: elsewhere than on a terminal only once a state."""
        if self.out.is_terminal:
            self._status.update(f"[dim]{escape(text)}[/]")
        elif (what := text.partition(" (")[0]) != self._said and what.startswith("job"):
            self._said = what
            self._line(f"{'':{_VERDICT}}{'':{_CHECK}}[dim]... {escape(what)}[/]")

    def show(self, finding: Finding) -> None:
        """One line; on a terminal that is narrower, folded under itself."""
        told = escape(finding.told)
        if finding.advice:
            told += f". [bold]{escape(finding.advice)}[/]"
        if not self.out.is_terminal:
            shown = finding.verdict.upper() if finding.verdict == "failed" else finding.verdict
            self._line(f"{shown:{_VERDICT}}{finding.check:{_CHECK}}{told}")
            return
        row = Table.grid(padding=0)
        row.add_column(width=_VERDICT)
        row.add_column(width=_CHECK, no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(_SHOWN[finding.verdict], finding.check, told)
        self.out.print(row)

    def end(self, findings: Iterable[Finding]) -> None:
        """What it comes to."""
        self._status.stop()
        found = list(findings)
        failed = [one.check for one in found if one.verdict == "failed"]
        warned = sum(one.verdict == "warning" for one in found)
        warnings = many(warned, "warning") if warned else "no warning"
        if failed:
            told = f"{many(len(failed), 'check')} FAILED: {', '.join(dict.fromkeys(failed))}"
            told = f"[bold red]{told}[/]" + f"; {warnings}"
        elif any(one.check == "job" and one.verdict != "ok" for one in found):
            told = f"Nothing failed, {warnings}; no job has looked at the nodes yet"
        else:
            told = f"Ready to launch: nothing failed, {warnings}"
        self._line(told + ".")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._status.stop()

    def _line(self, text: str) -> None:
        self.out.print(text, soft_wrap=True)


def findings_json(findings: list[Finding]) -> dict[str, Any]:
    """The same facts."""
    failed = any(one.verdict == "failed" for one in findings)
    return {"failed": failed, "findings": [plain(one) for one in findings]}
