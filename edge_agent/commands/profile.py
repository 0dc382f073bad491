"""``edge-agent profile``: measure this device's models, the cloud's model and the link, in one go."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_agent.errors import ConfigError
from partition.console_script import json_option, print_json, verbose_option
from partition.progress_bar import share_bar

if TYPE_CHECKING:
    from edge_agent.cloud.client import CloudClient
    from edge_agent.config import EdgeConfig
    from partition.planning.profile import Compute, DeviceProfile, Link
    from partition.planning.profiler import Measurement


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file of the agent: its model, its cloud, the model of a split.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    default=Path("profile.json"),
    show_default=True,
)
@click.option(
    "--link-only",
    is_flag=True,
    help="Measure the link alone, and put it into the existing file.",
)
@verbose_option
@json_option
def profile(config_path: Path | None, output: Path, link_only: bool, as_json: bool) -> None:
    """Measure what planning needs: this device's model, the cloud's model, and the way between them.

    Nothing of any request leaves: the cloud gets random bytes, ids and rows. Then set cloud.profile to the file.
    """
    from edge_agent.assembly import make_cloud_client
    from edge_agent.config import load_config
    from partition.planning.profile import as_document, load_profile, save_profile

    # The plan cannot be asked for before there is a profile.
    config = load_config(config_path, flags={"cloud": {"profile": None}})
    cloud = make_cloud_client(config)
    if cloud is None:
        raise ConfigError(
            "there is no cloud to measure; set cloud.target, or use `partition profile`"
        )
    try:
        if link_only:
            from dataclasses import replace

            made = replace(load_profile(output), link=_measure_link(cloud))
        else:
            made = _measure(config, cloud)
    finally:
        cloud.close()
    save_profile(made, output)
    if as_json:
        print_json(as_document(made))
    else:
        _print(made, output)


def _measure(config: EdgeConfig, cloud: CloudClient) -> DeviceProfile:
    from partition.planning.profile import DeviceProfile

    link = _measure_link(cloud)
    large = _measure_cloud(cloud)
    own, layers = _measure_device(config, large)
    return DeviceProfile(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {config.model.threads} threads",
        was_idle=own.was_idle and (layers is None or layers.was_idle),
        memory_bytes=config.model.max_memory_mb << 20,
        edge=own.compute,
        edge_layers=None if layers is None else layers.compute,
        cloud=large,
        link=link,
    )


def _measure_link(cloud: CloudClient) -> Link:
    from partition.planning.profile import Link

    return Link.of(cloud.probe_link())


def _measure_cloud(cloud: CloudClient) -> Compute:
    with share_bar("measuring the cloud's model") as on_progress:
        return cloud.measure_model(on_progress=on_progress)


def _measure_device(config: EdgeConfig, large: Compute) -> tuple[Measurement, Measurement | None]:
    """The device's own model, and half of the layers of a split's: all of them are alike."""
    from edge_agent.assembly import find_model
    from partition.planning.model_sizes import sizes_of
    from partition.planning.profiler import Profiler
    from partition.stages.onnx_stage import OnnxStage
    from partition.stages.stage_range import Precision, StageRange
    from partition.weights.weight_source import open_weights

    def measure(name: str, precision: Precision, *, is_half: bool) -> Measurement:
        source = open_weights(find_model(config, name))
        spec = source.spec
        part = None
        half = max(1, spec.num_layers // 2)
        if is_half:
            if spec.num_layers != large.num_layers:
                raise ConfigError(
                    "split.model is another model than the cloud's; name the one that it runs"
                )
            part = StageRange(start=0, end=half, num_layers=spec.num_layers)
        stage = OnnxStage.open(
            source,
            part,
            precision=precision,
            threads=config.model.threads,
            context_tokens=min(config.model.context_tokens, 640),
            cache_dir=config.cache_folder / "stages",
        )
        try:
            with share_bar(f"measuring {Path(name).name}") as on_progress:
                profiler = Profiler(
                    stage,
                    sizes_of(spec, precision),
                    clock=time.perf_counter,
                    max_tokens=stage.context_tokens,
                    on_progress=on_progress,
                )
                if is_half:
                    return profiler.measure_layers(Path(name).name, num_layers=half)
                return profiler.measure(Path(name).name)
        finally:
            stage.close()

    own = measure(config.model.name, Precision.INT8, is_half=False)
    if not config.split.model:
        return own, None
    return own, measure(config.split.model, config.split.precision, is_half=True)


def _print(made: DeviceProfile, output: Path) -> None:
    assert made.link is not None
    link = made.link
    click.echo(
        f"link: {1000 * link.round_trip_s:.1f} ms round trip (95 % below {1000 * link.round_trip_p95_s:.1f}, "
        f"jitter {1000 * link.jitter_s:.1f}), {link.up_bytes_per_s / 125_000:.1f} Mbit/s up, "
        f"{link.down_bytes_per_s / 125_000:.1f} down"
    )
    for where, found in (("device", made.edge), ("cloud", made.cloud)):
        if found is None:
            continue
        base, slope = found.verification(256)
        click.echo(
            f"{where}: {found.model}, prefill of 256 tokens {256 / found.prefill(256):.0f} tokens a second, "
            f"decode {1 / found.decode(256):.1f}, verifying g drafts {1000 * base:.1f} + {1000 * slope:.2f} g ms"
        )
    if not made.was_idle:
        click.echo(
            "the runs differed much: something else is running here; measure again when idle"
        )
    click.echo(
        f"written to {output}; set cloud.profile to it, or: partition plan --profile {output}"
    )
