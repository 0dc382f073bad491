"""Four layers, merged in one place; a misspelt key anywhere is an error that names it."""

import pytest

from edge_agent.config import load_config
from partition.errors import SettingsError


def load(path=None, environment=None, **flags):
    return load_config(path, flags=flags, environment=environment or {})


def test_each_layer_wins_over_the_one_below(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text('offline = true\n[model]\nname = "of-file"\nthreads = 3\n[http]\nport = 1\n')
    assert load().model.threads == 2
    assert load(path).model.threads == 3
    variables = {"TANDEM_EDGE_MODEL__THREADS": "4"}
    assert load(path, variables).model.threads == 4
    config = load(path, variables, model={"threads": 5})
    assert (config.model.threads, config.model.name, config.offline, config.http.port) == (
        5,
        "of-file",
        True,
        1,
    )


def test_paths_of_a_file_are_relative_to_it(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text('tasks = ["mine"]\n[cloud]\nca = "pki/ca.pem"\nkey = "/abs/key"\n')
    config = load(path)
    assert config.cloud.ca == tmp_path / "pki/ca.pem"
    assert str(config.cloud.key) == "/abs/key"
    assert config.tasks == (tmp_path / "mine",)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("modle = 1", "modle"),
        ("[model]\nthread = 1", "model.thread"),
        ("[model]\nthreads = 0", "model.threads"),
        ("[model", "TOML"),
        ('[cloud]\ntarget = ["secret-host"]', "cloud.target"),
    ],
)
def test_wrong_file_names_the_key_and_never_the_value(tmp_path, text, word):
    path = tmp_path / "edge.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=word) as caught:
        load(path)
    assert "secret-host" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["TANDEM_EDGE_MODLE__NAME", "TANDEM_EDGE_MODEL__THREAD", "TANDEM_EDGE_OFLINE"]
)
def test_misspelt_variable(name):
    with pytest.raises(SettingsError, match=name):
        load(environment={name: "1"})


def test_missing_file(tmp_path):
    with pytest.raises(SettingsError, match="give an existing file"):
        load(tmp_path / "none.toml")
