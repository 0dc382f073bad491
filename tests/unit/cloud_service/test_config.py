"""Defaults < TOML < environment < flags, and no typo passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_service.cli import main
from cloud_service.config import is_loopback, load_config, split_address
from partition.errors import SettingsError

PLAIN = {"tls": {"insecure_loopback": True}}


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text("[model]\nname = 'file'\n[prices]\ninput_usd = 1\noutput_usd = 2\n")
    environment = {"TANDEM_CLOUD_MODEL__NAME": "variable", "TANDEM_CLOUD_PRICES__INPUT_USD": "3"}
    flags = {**PLAIN, "model": {"name": "flag"}}
    config = load_config(path, flags=flags, environment=environment)
    assert config.model.name == "flag"
    assert (config.prices.input_usd, config.prices.output_usd) == (3, 2)
    assert load_config(path, flags=PLAIN, environment=environment).model.name == "variable"
    assert load_config(path, flags=PLAIN, environment={}).model.name == "file"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text("[state]\ndirectory = 'mine'\n")
    config = load_config(path, flags=PLAIN, environment={})
    assert config.state.directory == tmp_path / "mine"


@pytest.mark.parametrize(
    ("toml", "environment"),
    [
        ("modle = 1", {}),
        ("[model]\nnaem = 'x'", {}),
        ("listen = 'nowhere'", {}),
        ("listen = ", {}),
        ("", {"TANDEM_CLOUD_MODEL__NAEM": "x"}),
        ("", {"TANDEM_CLOUD_LISTENS": "x"}),
        ("", {"TANDEM_CLOUD_LIMITS__MAX_LABELS": "many"}),
        ("[drain]\nfinish_s = 60", {}),
        ("listen = '0.0.0.0:7443'", {}),
        ("[tls]\ninsecure_loopback = false", {}),
    ],
)
def test_mistakes_are_named(tmp_path: Path, toml: str, environment: dict[str, str]) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text(toml)
    flags = {} if "tls" in toml else PLAIN
    with pytest.raises(SettingsError):
        load_config(path, flags=flags, environment=environment)


def test_values_are_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        load_config(
            None, flags={**PLAIN, "state": {"url": {"password": "hunter2"}}}, environment={}
        )
    assert "hunter2" not in str(caught.value)
    config = load_config(
        None, flags={**PLAIN, "state": {"url": "sqlite:///hunter2"}}, environment={}
    )
    assert "hunter2" not in repr(config)


def test_addresses() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert is_loopback("localhost:1")
    assert is_loopback("[::1]:1")
    assert is_loopback("127.9.9.9:1")
    assert not is_loopback("0.0.0.0:1")
    assert not is_loopback("localhost.example.org:1")


def test_exit_codes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--help"]) == 0
    assert main(["serve", "--no-such-flag"]) == 2
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 1
    arguments = ["serve", "--insecure-loopback", "--listen", "0.0.0.0:0", "--state", str(tmp_path)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "loopback" in error


@pytest.mark.parametrize(
    "server",
    [
        {},
        {"base_url": "ftp://127.0.0.1/v1"},
        {"base_url": "http://user:password@127.0.0.1/v1"},
        {"base_url": "http://models.example/v1"},
    ],
)
def test_a_model_server_is_named_and_reached_safely(server: dict[str, str]) -> None:
    flags = {**PLAIN, "backend": "openai", "openai": server}
    with pytest.raises(SettingsError, match="base_url") as caught:
        load_config(None, flags=flags, environment={})
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    "server",
    [
        {"base_url": "http://127.0.0.1:8000/v1"},
        {"base_url": "https://models.example/v1"},
        {"base_url": "http://models.example/v1", "allow_plaintext": True},
    ],
)
def test_a_model_server_here_or_by_tls(server: dict[str, object]) -> None:
    flags = {**PLAIN, "backend": "openai", "openai": server}
    config = load_config(None, flags=flags, environment={})
    assert config.openai.base_url == server["base_url"]
