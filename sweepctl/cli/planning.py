"""Commands before anything runs: plan a study, prepare data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweepctl.cli.app import AsJson, ConfigDir, Overrides, app, data_app, positive

if TYPE_CHECKING:
    from sweepctl.launch.forecast import Forecast
    from sweepctl.launch.launcher import Launcher
    from sweepctl.launch.rates import StatedSpeed
    from sweepctl.plan.plan import Plan
    from sweepctl.spec.corpus import CorpusFacts
    from sweepctl.spec.study import Study
    from sweepctl.store.workspace import Sweep

FlopsPerS = Annotated[
    float | None, typer.Option(help="State one device's training FLOP/s instead of measuring it.")
]
TokensPerS = Annotated[float | None, typer.Option(help="State its tokens/s, the same for every rung.")]
Mfu = Annotated[float | None, typer.Option(help="State the share of its peak FLOP/s that it reaches.")]
DeviceName = Annotated[
    str | None, typer.Option(help="Words of its name, such as H100; by default the one trained on last.")
]
Devices = Annotated[
    int | None, typer.Option(help="Say when all would be done on so many devices, and on others.")
]
On = Annotated[
    str | None,
    typer.Option(help="The machine that will train, a file of launchers/: its price, its devices."),
]


@app.command()
def plan(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    flops_per_s: FlopsPerS = None,
    tokens_per_s: TokensPerS = None,
    mfu: Mfu = None,
    device: DeviceName = None,
    on: On = None,
    devices: Devices = None,
    cfg: Annotated[
        bool, typer.Option("--cfg", help="Print the composed study as YAML; plan nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compose a study, expand it, show what it costs and what exists, and write the plan.

    `sweepctl plan` alone plans study=demo; study=NAME picks another, name=NAME names the sweep.
    """
    from sweepctl.data.corpora import ensure
    from sweepctl.data.shards import check_context
    from sweepctl.launch.compare import compare_all
    from sweepctl.launch.forecast import record as forecast_record
    from sweepctl.launch.gpu_memory import memory_by_stage
    from sweepctl.launch.rates import StatedSpeed, plan_rates
    from sweepctl.launch.stages import plan_stages
    from sweepctl.report.console import BOLD, END, console, place, show_json
    from sweepctl.report.forecast import show_forecast
    from sweepctl.report.memory import memory_json, show_memory
    from sweepctl.report.plan import plan_json, show_plan
    from sweepctl.spec.build import plain
    from sweepctl.spec.compose import as_yaml, compose_study
    from sweepctl.store.workspace import Workspace

    positive("--devices", devices)
    stated = StatedSpeed(flops_per_s, tokens_per_s, mfu, device)
    study = compose_study(overrides or [], config_dir)
    if cfg:
        show_json(plain(study)) if as_json else print(as_yaml(study), end="")
        return
    launcher = None if on is None else _launcher(on, config_dir)
    workspace = Workspace.default()
    index = ensure(workspace, study.data)
    check_context(workspace.corpus(study.data.name), index, study.batch.context)
    plans, waiting = plan_stages(workspace, study, index.facts)
    sweep = workspace.sweep(study.name)
    compared = compare_all(sweep, plans)
    rates = plan_rates(workspace, plans, stated, launcher.execution if launcher else None)
    price: float | None = launcher.settings.price_per_device_hour if launcher else None
    memory = memory_by_stage(launcher or _launcher("local", config_dir), plans)
    when = None
    if devices is not None:
        when = _forecast(sweep, study, index.facts, plans, stated, launcher, devices)
    sweep.save(plans, waiting)
    if as_json:
        shown = {"sweep": study.name, **plan_json(plans, compared, waiting, rates, price)}
        shown |= {"memory": memory_json(memory)} if memory else {}
        show_json(shown | ({"forecast": forecast_record(when)} if when else {}))
        return
    out = console()
    show_plan(out, plans, compared, waiting, rates, price)
    show_memory(out, memory)
    if when is not None:
        show_forecast(out, when)
    is_left = waiting or any(stage.left.jobs for stage in compared.values())
    command = f"sweepctl {'launch' if is_left else 'collect'} {study.name}"
    out.print(f"Written to {place(sweep.folder)}. Next: {BOLD}{command}{END}", soft_wrap=True)


def _launcher(name: str, config_dir: Path | None) -> Launcher[Any]:
    """The launcher of a file of launchers/."""
    from sweepctl.launch.launcher import read_launcher
    from sweepctl.spec.compose import compose_launcher

    return read_launcher(name, compose_launcher(name, [], config_dir))


def _forecast(
    sweep: Sweep,
    study: Study,
    corpus: CorpusFacts,
    plans: dict[str, Plan],
    stated: StatedSpeed,
    launcher: Launcher[Any] | None,
    devices: int,
) -> Forecast:
    """When what is left would be done; its jobs take what the rates of their rungs say."""
    from sweepctl.launch.forecast import forecast, paces, phases
    from sweepctl.launch.rates import plan_rates

    execution = launcher.execution if launcher else None
    ordered, left_out = phases(sweep, study, corpus, plans)
    pace = paces(
        ordered,
        lambda every: plan_rates(sweep.workspace, every, stated, execution).by_rung,
        launcher.devices_of if launcher else lambda rung: 1,
    )
    return forecast(sweep, ordered, left_out, pace, devices)


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="The corpus: data.name of a study.")],
    source: Annotated[
        str, typer.Option(help="text, jsonl, parquet, flat, or a built-in one: pysrc, synthetic.")
    ] = "text",
    train: Annotated[list[Path] | None, typer.Option(help="Files or folders (repeatable).")] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="Held-out files or folders; flat files need them.")
    ] = None,
    field: Annotated[str, typer.Option(help="Field or column of the text, or a path: meta.text.")] = "text",
    tokenizer: Annotated[str, typer.Option(help="bytes, or a tokenizers JSON file.")] = "bytes",
    validation_share: Annotated[
        float | None,
        typer.Option(
            help="Share of documents held out, by the hash of their text; 0.01 without --validation."
        ),
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help=r"Between documents of a text file: '<|endoftext|>', '\n\n'.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of flat files: uint8, uint16 or uint32; their header's, else uint16.")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Of flat files.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn text into memory-mapped token shards with an index, a held-out split and hashes."""
    from sweepctl.data.command import PrepareRequest, prepare_from
    from sweepctl.report.console import console, count, place, show_json
    from sweepctl.spec.build import plain
    from sweepctl.store.workspace import Workspace

    request = PrepareRequest(
        name, source, tuple(train or ()), tuple(validation or ()), field, tokenizer,
        validation_share, dtype, vocab_size, separator,
    )  # fmt: skip
    workspace = Workspace.default()
    out = console()
    index = prepare_from(workspace, request, out if not as_json else None)
    if as_json:
        show_json(plain(index))
        return
    for split, facts in index.splits.items():
        out.print(f"{split}: {count(facts.tokens)} tokens in {len(facts.shards)} shards")
    if left_out := index.source.get("left_out"):
        out.print(
            "left out: " + ", ".join(f"{number:,} {what}" for what, number in left_out.items()),
            soft_wrap=True,
        )
    out.print(f"{index.hash}  {place(workspace.corpus(name))}")
