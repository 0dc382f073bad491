"""``partition advise``: should it run on the devices, in the cloud, or both?"""

from __future__ import annotations

from pathlib import Path

import click

from partition.advice.advice_inputs import load_inputs, shipped_inputs_text
from partition.advice.advice_report import to_json, to_markdown
from partition.advice.advisor import advise as advise_on
from partition.console_script import json_option, print_json


@click.command()
@click.option(
    "--inputs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own volumes, requirements and prices: a TOML file with what differs from --show-inputs.",
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
def advise(inputs: Path | None, output: Path | None, show_inputs: bool, as_json: bool) -> None:
    """Compare local, cloud and hybrid by cost, break-even volume, nine factors, risks and sensitivity."""
    if show_inputs:
        click.echo(shipped_inputs_text(), nl=False)
        return
    advice = advise_on(load_inputs(inputs))
    page = to_markdown(advice)
    if output is not None:
        output.write_text(page, encoding="utf-8")
    if as_json:
        print_json(to_json(advice))
    elif output is None:
        click.echo(page, nl=False)
    else:
        click.echo(advice.reason)
