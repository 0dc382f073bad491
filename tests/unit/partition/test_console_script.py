"""All three console scripts end in 0, 1 or 2, with one sentence and never a traceback."""

import json

import click
import pytest

from partition.console_script import DONE, FAILED, WRONG_USAGE, json_option, run_script


class KnownError(Exception):
    pass


@click.group()
def script():
    pass


@script.command()
def good():
    click.echo("done")


@script.command()
@json_option
def known(as_json):
    raise KnownError("the file is missing; give another")


@script.command()
def bug():
    raise ValueError("John Smith")


@script.command()
def gone():
    raise FileNotFoundError(2, "No such file or directory", "x.json")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["good"], DONE, ""),
        (["--help"], DONE, ""),
        (["known"], FAILED, "error: the file is missing; give another"),
        (["gone"], FAILED, "No such file or directory: x.json"),
        (["bug"], FAILED, "internal error (ValueError at test_console_script.py"),
        (["nope"], WRONG_USAGE, "No such command"),
        (["good", "--wrong"], WRONG_USAGE, "No such option"),
    ],
)
def test_exit_code_and_sentence(words, code, said, capsys):
    assert run_script(script, (KnownError,), words) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert "John Smith" not in error


def test_json_error_goes_to_stdout(capsys):
    assert run_script(script, (KnownError,), ["known", "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out) == {"error": "the file is missing; give another"}
