"""When a plan would be done, as a screen."""

from __future__ import annotations

from rich.console import Console

from sweepctl.launch.forecast import Forecast
from sweepctl.report.console import BOLD, END, YELLOW, duration, many, table


def show_forecast(out: Console, result: Forecast) -> None:
    """Stages, the chain that bounds them, and other numbers of devices."""
    whole = result.whole
    out.print()
    for stage, text in result.not_counted.items():
        out.print(f"{YELLOW}Stage {stage} is not counted: {text.rstrip('.')}.{END}")
    if not result.stays:
        out.print("Nothing is left to train.")
        return
    devices = many(whole.devices, "device")
    out.print(
        f"{BOLD}On {devices}{END} all is done in {BOLD}{duration(whole.seconds)}{END}; they train "
        f"{whole.busy:.0%} of that time. No order could be done before {duration(result.bound_s)}."
    )
    for stage, seconds in result.stages.items():
        value = f", counted with {result.provisional[stage]}" if stage in result.provisional else ""
        out.print(f"  stage {stage} ends after {duration(seconds)}{value}")
    links = [f"{link.stage}: {link.name} ({duration(link.seconds)})" for link in result.chain]
    total_s = sum(link.seconds for link in result.chain)
    out.print(f"Longest chain, {duration(total_s)} on any number of devices: {' -> '.join(links)}")
    rows = [[str(c.devices), duration(c.seconds), f"{c.busy:.0%}"] for c in result.others]
    out.print(table("on other numbers of devices", ["devices", "done in", "busy"], rows, width=out.width))
    if result.enough is not None:
        out.print(f"More than {many(result.enough, 'device')} make it at most 5 % shorter.")
