"""``edge-agent audits`` as an operator runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge_agent.commands.audits import audits
from edge_agent.errors import ConfigError
from edge_agent.keystore import KeyStore
from partition.calibration.calibration import calibrate
from partition.oversight.audit import AuditPlan
from partition.oversight.oversight import Oversight
from partition.oversight.oversight_file import OversightFile
from tests.worlds import WORLD_B


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(f'state_folder = "{tmp_path}"\n[audit]\nrate = 0.02\n')
    return path


def watch(folder: Path) -> Oversight:
    secret = KeyStore.open(folder / "device.key").derive("audit")
    oversight = Oversight(
        OversightFile(folder / "oversight.db"),
        plan=AuditPlan(secret=secret, rate=1.0),
        clock=time.time,
    )
    certificate = calibrate(
        WORLD_B.draw(np.random.default_rng(3), 2000), max_error=0.05, confidence=0.95
    )
    oversight.watch("triage", certificate)
    return oversight


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(audits, [str(part) for part in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_says_how_each_certificate_stands(config: Path) -> None:
    assert "no certificate is watched yet" in run("--config", config)
    oversight = watch(config.parent)
    assert "0 of 0 audited answers were wrong" in run("--config", config)
    for index in range(2):
        oversight.begin_audit("triage", str(index))
        oversight.settle_audit(str(index), 1.0)
    assert "suspended the certificate: 2 of 2" in run("--config", config)
    found = json.loads(run("--config", config, "--json"))
    assert found["tasks"]["triage"]["threshold"] is None
    assert "stay local" in run("--config", config, "--resume", "triage")


def test_without_audits_it_says_how_to_have_them(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(f'state_folder = "{tmp_path}"\n')
    with pytest.raises(ConfigError, match=r"\[audit\]"):
        run("--config", path)
