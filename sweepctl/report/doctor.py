"""What the doctor found: a line a check, as they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

from sweepctl.launch.doctor import Finding
from sweepctl.report.console import BOLD, DIM, END, GREEN, RED, YELLOW, console, many

_SHOWN = {"ok": f"{GREEN}ok{END}", "warning": f"{YELLOW}warning{END}", "failed": f"{RED}FAILED{END}",
          "skipped": f"{DIM}skipped{END}"}  # fmt: skip
_CHECK, _VERDICT = 15, 9


class DoctorView:
    """Lines on what was found; on a terminal also one on what is waited for."""

    def __init__(self, out: Console | None) -> None:
        self.out = out or console(quiet=True)
        self._status = Status("", console=self.out, spinner_style="dim")
        if self.out.is_terminal:
            self._status.start()
        self._said = ""

    def say(self, text: str) -> None:
        """What is being waited for: elsewhere than on a terminal only once a state."""
        if self.out.is_terminal:
            self._status.update(self.out.render_str(f"{DIM}{text}{END}"))
        elif (what := text.partition(" (")[0]) != self._said and what.startswith("job"):
            self._said = what
            self._line(f"{'':{_VERDICT}}{'':{_CHECK}}{DIM}... {what}{END}")

    def show(self, finding: Finding) -> None:
        """One line; on a terminal that is narrower, folded under itself."""
        text = finding.text
        if finding.advice:
            text += f". {BOLD}{finding.advice}{END}"
        if not self.out.is_terminal:
            shown = finding.verdict.upper() if finding.verdict == "failed" else finding.verdict
            self._line(f"{shown:{_VERDICT}}{finding.check:{_CHECK}}{text}")
            return
        row = Table.grid(padding=0)
        row.add_column(width=_VERDICT)
        row.add_column(width=_CHECK, no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(_SHOWN[finding.verdict], finding.check, text)
        self.out.print(row)

    def end(self, findings: Iterable[Finding]) -> None:
        """What it comes to."""
        self._status.stop()
        every = list(findings)
        failed = [finding.check for finding in every if finding.verdict == "failed"]
        warned = sum(finding.verdict == "warning" for finding in every)
        warnings = many(warned, "warning") if warned else "no warning"
        if failed:
            text = f"{many(len(failed), 'check')} FAILED: {', '.join(dict.fromkeys(failed))}"
            text = f"{RED}{text}{END}" + f"; {warnings}"
        elif any(finding.check == "job" and finding.verdict != "ok" for finding in every):
            text = f"Nothing failed, {warnings}; no job has looked at the nodes yet"
        else:
            text = f"Ready to launch: nothing failed, {warnings}"
        self._line(text + ".")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._status.stop()

    def _line(self, text: str) -> None:
        self.out.print(text, soft_wrap=True)


def findings_json(findings: list[Finding]) -> dict[str, Any]:
    """The same facts."""
    failed = any(finding.verdict == "failed" for finding in findings)
    return {"failed": failed, "findings": [_finding_json(finding) for finding in findings]}


def _finding_json(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "verdict": finding.verdict,
        "told": finding.text,
        "advice": finding.advice,
    }
