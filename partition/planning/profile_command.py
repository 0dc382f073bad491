"""``partition profile``: measure a model on this machine, and store what planning needs to know."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import platformdirs

from partition.console_script import json_option, print_json
from partition.planning.model_sizes import sizes_of
from partition.planning.profile import DeviceProfile, Link, as_document, load_profile, save_profile
from partition.planning.profiler import Measurement, Profiler
from partition.progress_bar import share_bar
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision, StageRange
from partition.store.model_store import ModelStore
from partition.weights.weight_source import WeightSource, open_weights

_IN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_CONTEXT_TOKENS = 640


@click.command()
@click.option(
    "--model",
    default="smollm2-135m-instruct",
    show_default=True,
    help="A name of `edge-agent models list`, or a path.",
)
@click.option(
    "--cloud",
    "cloud_path",
    type=_IN_FILE,
    help="A profile made by the same command on the cloud's machine.",
)
@click.option(
    "--split-model", help="The cloud's model: its layers are measured on this machine as well."
)
@click.option(
    "--round-trip-ms", type=click.FloatRange(min=0), help="To the cloud; with both bandwidths."
)
@click.option("--up-mbit", type=click.FloatRange(min=0, min_open=True), help="Megabits a second.")
@click.option("--down-mbit", type=click.FloatRange(min=0, min_open=True), help="The same, down.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="By default the processor's, at most four."
)
@click.option(
    "--precision",
    type=click.Choice(Precision, case_sensitive=False),
    default=Precision.INT8,
    show_default=True,
    help="What to compute in.",
)
@click.option("--memory-mb", type=click.IntRange(min=1), help="That models may take here.")
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("profile.json"),
    show_default=True,
)
@json_option
def profile(
    model: str,
    cloud_path: Path | None,
    split_model: str | None,
    round_trip_ms: float | None,
    up_mbit: float | None,
    down_mbit: float | None,
    threads: int | None,
    precision: Precision,
    memory_mb: int | None,
    offline: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Measure a model here: layers, ends, decode and verification, in a few seconds once it is built.

    Run it on both machines; on the device add the cloud's file with --cloud, and the link. In operation the agent learns
    the link from its own calls.
    """
    link = _link(round_trip_ms, up_mbit, down_mbit)
    store = ModelStore(offline=offline)
    count = threads or min(4, os.cpu_count() or 1)
    found = _measure(_open(store, model), model, threads=count, precision=precision)
    layers = None
    if split_model is not None:
        layers = _measure_half(
            _open(store, split_model), split_model, threads=count, precision=precision
        )
    made = DeviceProfile(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {count} threads, {precision}",
        was_idle=found.was_idle and (layers is None or layers.was_idle),
        memory_bytes=0 if memory_mb is None else memory_mb << 20,
        edge=found.compute,
        edge_layers=None if layers is None else layers.compute,
        link=link,
    )
    if cloud_path is not None:
        made = replace(made, cloud=load_profile(cloud_path).edge)
    save_profile(made, output)
    if as_json:
        print_json(as_document(made))
        return
    _print(made, output)


def _measure(source: WeightSource, name: str, *, threads: int, precision: Precision) -> Measurement:
    with _profiler(source, None, f"measuring {name}", threads, precision) as profiler:
        return profiler.measure(Path(name).name)


def _measure_half(
    source: WeightSource, name: str, *, threads: int, precision: Precision
) -> Measurement:
    """Layers of the cloud's model on this machine: half of them stand for all, they are alike."""
    num_layers = source.spec.num_layers
    half = max(1, num_layers // 2)
    layers = StageRange(start=0, end=half, num_layers=num_layers)
    label = f"measuring {half} layers of {name}"
    with _profiler(source, layers, label, threads, precision) as profiler:
        return profiler.measure_layers(Path(name).name, num_layers=half)


@contextmanager
def _profiler(
    source: WeightSource,
    layers: StageRange | None,
    label: str,
    threads: int,
    precision: Precision,
) -> Iterator[Profiler]:
    """A profiler of some layers, or of the whole model; shows its progress, and frees the stage."""
    stage = _stage(source, layers, threads=threads, precision=precision)
    try:
        with share_bar(label) as on_progress:
            yield Profiler(
                stage,
                sizes_of(source.spec, precision),
                clock=time.perf_counter,
                max_tokens=stage.context_tokens,
                on_progress=on_progress,
            )
    finally:
        stage.close()


def _stage(
    source: WeightSource, layers: StageRange | None, *, threads: int, precision: Precision
) -> OnnxStage:
    return OnnxStage.open(
        source,
        layers,
        precision=precision,
        threads=threads,
        context_tokens=min(_CONTEXT_TOKENS, source.spec.context_tokens),
        cache_dir=platformdirs.user_cache_path("tandem") / "stages",
    )


def _open(store: ModelStore, name: str) -> WeightSource:
    path = Path(name)
    return open_weights(path if path.exists() else store.get(name))


def _link(
    round_trip_ms: float | None, up_mbit: float | None, down_mbit: float | None
) -> Link | None:
    given = (round_trip_ms, up_mbit, down_mbit)
    if all(value is None for value in given):
        return None
    if round_trip_ms is None or up_mbit is None or down_mbit is None:
        raise click.UsageError("a link needs --round-trip-ms, --up-mbit and --down-mbit together")
    return Link(
        round_trip_s=round_trip_ms / 1000,
        round_trip_p95_s=round_trip_ms / 1000,
        up_bytes_per_s=up_mbit * 125_000,
        down_bytes_per_s=down_mbit * 125_000,
    )


def _print(made: DeviceProfile, output: Path) -> None:
    edge = made.edge
    click.echo(f"{edge.model} on {made.machine}")
    for tokens in (64, 256):
        click.echo(
            f"  prefill of {tokens} tokens: {tokens / edge.prefill(tokens):.0f} tokens a second"
        )
    click.echo(f"  decode after 256 tokens: {1 / edge.decode(256):.1f} tokens a second")
    base, slope = edge.verification(256)
    click.echo(f"  verifying g drafts: {1000 * base:.1f} + {1000 * slope:.2f} g ms")
    if not made.was_idle:
        click.echo("  the runs differed much: something else is running; measure again when idle")
    click.echo(f"written to {output}; plan with: partition plan --profile {output}")
