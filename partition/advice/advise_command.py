"""``partition advise``: should it run on the devices, in the cloud, or both?"""

from __future__ import annotations

from pathlib import Path

import click

from partition.advice.advice_inputs import load_inputs, shipped_inputs_text
from partition.advice.advice_report import to_json, to_markdown
from partition.advice.advisor import advise as advise_on
from partition.advice.measured import with_certificate, with_profile
from partition.calibration.certificate import Certificate
from partition.console_script import json_option, print_json
from partition.planning.profile import load_profile

_IN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--inputs",
    type=_IN_FILE,
    help="Your own volumes, requirements and prices: a TOML file with what differs from --show-inputs.",
)
@click.option(
    "--profile",
    "profile_path",
    type=_IN_FILE,
    help="Of `edge-agent profile`: seconds of an answer as measured, instead of those of the inputs.",
)
@click.option(
    "--certificate",
    "certificate_path",
    type=_IN_FILE,
    help="Of `partition calibrate`: the local share as certified, instead of that of the inputs.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="The page to write, Markdown; by default it is printed.",
)
@click.option(
    "--show-inputs", is_flag=True, help="Print the shipped inputs, to copy and correct, and stop."
)
@json_option
def advise(
    inputs: Path | None,
    profile_path: Path | None,
    certificate_path: Path | None,
    output: Path | None,
    show_inputs: bool,
    as_json: bool,
) -> None:
    """Compare local, cloud and hybrid by cost, break-even volume, nine factors, risks and sensitivity."""
    if show_inputs:
        click.echo(shipped_inputs_text(), nl=False)
        return
    told = load_inputs(inputs)
    if certificate_path is not None:
        told = with_certificate(told, Certificate.load(certificate_path))
    if profile_path is not None:
        told = with_profile(told, load_profile(profile_path))
    advice = advise_on(told)
    page = to_markdown(advice)
    if output is not None:
        output.write_text(page, encoding="utf-8")
    if as_json:
        print_json(to_json(advice))
    elif output is None:
        click.echo(page, nl=False)
    else:
        click.echo(advice.reason)
