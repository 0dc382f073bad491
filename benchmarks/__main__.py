"""`python -m benchmarks NAME --json [--quick] [--data DIR]`: one line for each figure."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.line import Line, Options
from partition.console_script import run_script
from partition.errors import PartitionError

NOT_BENCHMARKS = {"__main__", "line"}


def names() -> list[str]:
    """Every benchmark there is: modules of this package with a ``run``."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name not in NOT_BENCHMARKS and not module.name.startswith("_")
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=click.Choice(names()))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--quick", is_flag=True, help="End within two minutes.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("../shared/data"),
    show_default=True,
    help="Folder of data to measure with.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    help="Where measurements are kept: take new ones for so long, and go on there the next time.",
)
def benchmark(name: str, as_json: bool, quick: bool, data: Path, seconds: float | None) -> None:
    """Measure NAME, ours and the peer in turn."""
    module = importlib.import_module(f"benchmarks.{name}")
    table = Table("case", "ours", "theirs", "ratio", "unit", "peer", "runs", title=name)
    for line in module.run(Options(quick=quick, data=data, seconds=seconds)):
        if as_json:
            click.echo(json.dumps(as_document(name, line), ensure_ascii=False))
            sys.stdout.flush()
        else:
            table.add_row(
                *map(
                    _shown,
                    (
                        line.case,
                        line.ours,
                        line.theirs,
                        line.ratio,
                        line.unit,
                        line.peer,
                        line.runs,
                    ),
                )
            )
    if not as_json:
        Console().print(table)


def as_document(name: str, line: Line) -> dict[str, object]:
    """The JSON object of one figure."""
    return {
        "benchmark": name,
        "case": line.case,
        "peer": line.peer,
        "ours": line.ours,
        "theirs": line.theirs,
        "ratio": line.ratio,
        "unit": line.unit,
        "runs": line.runs,
    }


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run_script(benchmark, (PartitionError,)))
