"""``partition plan``: which mode a task should run in on a measured device, and why."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from partition.console_script import json_option, print_json
from partition.extend.activations import Codec
from partition.extend.draft_length import geometric
from partition.planning.cost import FIRST_GUESS_ACCEPTANCE, Mode, Routing, Scenario, Workload
from partition.planning.planner import (
    PRIVACY_STATEMENT,
    Constraints,
    Option,
    Plan,
    Weights,
    make_plan,
)
from partition.planning.profile import DeviceProfile, Link, load_profile
from partition.planning.sensitivity import Turn, in_words, turning_points
from partition.task import load_task

_IN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_SHARE = click.FloatRange(0.0, 1.0)
_TOKENS = click.IntRange(min=1, max=1_000_000)


@click.command()
@click.option(
    "--profile",
    "profile_path",
    required=True,
    type=_IN_FILE,
    help="Of a device: from `edge-agent profile`.",
)
@click.option(
    "--task", "task_path", type=_IN_FILE, help="A task file, for its policy and deadline."
)
@click.option("--prompt-tokens", type=_TOKENS, default=355, show_default=True)
@click.option("--output-tokens", type=_TOKENS, default=64, show_default=True)
@click.option(
    "--local-share",
    type=_SHARE,
    default=0.8,
    show_default=True,
    help="Of requests, from the certificate.",
)
@click.option(
    "--local-quality", type=_SHARE, default=0.85, show_default=True, help="Right local answers."
)
@click.option("--cloud-quality", type=_SHARE, default=0.95, show_default=True)
@click.option(
    "--cascade-quality", type=_SHARE, help="Of local and cloud together; by default the cloud's."
)
@click.option(
    "--acceptance",
    type=_SHARE,
    default=FIRST_GUESS_ACCEPTANCE,
    show_default=True,
    help="Share of drafts that stand, measured.",
)
@click.option("--least-quality", type=_SHARE, help="Refuse modes with fewer right answers.")
@click.option("--max-first-token-ms", type=click.FloatRange(min=0), help="Refuse slower modes.")
@click.option(
    "--max-usd-per-request", type=click.FloatRange(min=0), help="Refuse more expensive modes."
)
@click.option(
    "--codec",
    type=click.Choice([codec.name.lower() for codec in Codec]),
    default=Codec.INT8.name.lower(),
    show_default=True,
    help="Of hidden states.",
)
@click.option(
    "--other-tokenizer", is_flag=True, help="The two models do not share a tokenizer: no VERIFY."
)
@click.option(
    "--round-trip-ms", type=click.FloatRange(min=0), help="What if the round trip were this?"
)
@click.option(
    "--plots",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page of drawings of where each mode wins, HTML.",
)
@click.option("--all-cuts", is_flag=True, help="Show every cut of a split, not only the best.")
@json_option
def plan(
    profile_path: Path,
    task_path: Path | None,
    prompt_tokens: int,
    output_tokens: int,
    local_share: float,
    local_quality: float,
    cloud_quality: float,
    cascade_quality: float | None,
    acceptance: float,
    least_quality: float | None,
    max_first_token_ms: float | None,
    max_usd_per_request: float | None,
    codec: str,
    other_tokenizer: bool,
    round_trip_ms: float | None,
    plots: Path | None,
    all_cuts: bool,
    as_json: bool,
) -> None:
    """Predict every mode for one task on one device, choose, and say why and what would change it."""
    profile = load_profile(profile_path)
    scenario = Scenario(
        edge=profile.edge,
        edge_layers=profile.edge_layers,
        cloud=profile.cloud,
        link=_link(profile, round_trip_ms),
        power=profile.power,
        prices=profile.prices,
        workload=Workload(prompt_tokens=prompt_tokens, output_tokens=output_tokens),
        routing=Routing(
            local_share=local_share,
            local_quality=local_quality,
            cloud_quality=cloud_quality,
            cascade_quality=cloud_quality if cascade_quality is None else cascade_quality,
        ),
        survival=geometric(acceptance),
        codec=Codec[codec.upper()],
    )
    constraints = Constraints(
        memory_bytes=profile.memory_bytes or None,
        same_tokenizer=not other_tokenizer,
        min_quality=least_quality,
        max_ttft_s=None if max_first_token_ms is None else max_first_token_ms / 1000,
        max_money_usd=max_usd_per_request,
    )
    if task_path is not None:
        task = load_task(task_path)
        constraints = replace(
            constraints,
            may_leave_device=task.policy.may_leave_device,
            may_stay_local=task.policy.may_stay_local,
            allow_split=task.policy.allow_split,
            max_total_s=task.limits.deadline_s,
        )
    made = make_plan(scenario, constraints, Weights())
    turns = turning_points(scenario, constraints)
    if plots is not None:
        plots.write_text(_page(scenario, constraints, made), encoding="utf-8")
    if as_json:
        print_json(_document(made, turns))
    else:
        _print(made, turns, all_cuts=all_cuts)


def _page(scenario: Scenario, constraints: Constraints, made: Plan) -> str:
    if scenario.cloud is None or scenario.link is None:
        raise click.UsageError("--plots needs a profile with a cloud and a link")
    try:
        from partition.planning.mode_map_page import mode_page
    except ImportError as error:
        raise click.ClickException(
            "--plots needs matplotlib; install tandem-llm[console]"
        ) from error
    return mode_page(scenario, constraints, Weights(), made)


def _link(profile: DeviceProfile, round_trip_ms: float | None) -> Link | None:
    if profile.link is None or round_trip_ms is None:
        return profile.link
    return replace(profile.link, round_trip_s=round_trip_ms / 1000)


def _document(made: Plan, turns: tuple[Turn, ...]) -> dict[str, Any]:
    return {
        "chosen": None if made.chosen is None else made.chosen.name,
        "reason": made.reason,
        "split_is_advised": made.split_is_advised,
        "would_change": [asdict(turn) for turn in turns],
        "options": [
            {
                "name": option.prediction.name,
                **asdict(option.prediction),
                "refusals": list(option.refusals),
                "dominated_by": option.dominated_by,
                "weighted_cost_s": option.cost,
            }
            for option in made.options
        ],
    }


def _print(made: Plan, turns: tuple[Turn, ...], *, all_cuts: bool) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("mode")
    for column in ("first token", "per token", "answer", "up", "down", "device", "cloud", "money"):
        table.add_column(column, justify="right")
    for column in ("shown", "right"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for option in _shown(made.options, all_cuts=all_cuts):
        found = option.prediction
        table.add_row(
            found.name,
            f"{1000 * found.ttft_s:.0f} ms",
            f"{1000 * found.tpot_s:.1f} ms",
            f"{found.total_s:.2f} s",
            f"{found.bytes_up / 1000:.1f} KB",
            f"{found.bytes_down / 1000:.1f} KB",
            f"{found.edge_energy_j:.1f} J",
            f"{found.cloud_s:.2f} s",
            f"${found.money_usd:.5f}",
            f"{found.exposure:.0%}",
            f"{found.quality:.0%}",
            _verdict(option, made),
        )
    Console(width=160).print(table)
    click.echo(f"\n{made.reason}")
    if made.chosen is not None:
        click.echo(in_words(turns))
    if any(o.is_allowed and o.prediction.mode is Mode.SPLIT for o in made.options):
        click.echo(f"\n{PRIVACY_STATEMENT}")


def _shown(options: tuple[Option, ...], *, all_cuts: bool) -> list[Option]:
    if all_cuts:
        return list(options)
    cuts = [option for option in options if option.prediction.mode is Mode.SPLIT]
    best = min(cuts, key=lambda option: (not option.is_allowed, option.cost), default=None)
    return [o for o in options if o.prediction.mode is not Mode.SPLIT or o is best]


def _verdict(option: Option, made: Plan) -> str:
    if option.prediction is made.chosen:
        return f"chosen: {option.cost:.2f} s weighted"
    if option.refusals:
        return f"refused: {option.refusals[0]}"
    if option.dominated_by is not None:
        return f"dominated by {option.dominated_by}"
    return f"costs {option.cost:.2f} s weighted"
