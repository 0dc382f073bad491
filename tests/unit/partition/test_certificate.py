"""Certificate files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partition.calibration.calibration import calibrate
from partition.calibration.certificate import Certificate, Status, certificates_to_json
from partition.errors import CalibrationError
from tests.worlds import WORLD_B

CERTIFICATE = replace(
    calibrate(WORLD_B.draw(np.random.default_rng(3), 2000), max_error=0.05, confidence=0.95),
    task="triage",
)


def test_file_gives_back_an_equal_certificate(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    CERTIFICATE.save(path)
    assert Certificate.load(path) == CERTIFICATE
    assert Certificate.load(path, task="triage") == CERTIFICATE


def test_file_has_the_agreed_keys() -> None:
    document = json.loads(CERTIFICATE.to_json())
    agreed = {
        "status",
        "threshold",
        "local_share",
        "observed_error",
        "error_upper_bound",
        "max_error",
        "confidence",
        "n",
        "fingerprint",
        "frontier",
    }
    assert agreed <= set(document)
    assert document["status"] == "certified"
    assert isinstance(document["errors"], int)
    row = {"max_error", "threshold", "local_share", "n", "errors", "error_upper_bound", "delta"}
    assert all(set(entry) == row for entry in document["frontier"])


def test_accepts_from_the_threshold_on() -> None:
    assert CERTIFICATE.threshold is not None
    assert CERTIFICATE.accepts(CERTIFICATE.threshold)
    assert not CERTIFICATE.accepts(np.nextafter(CERTIFICATE.threshold, -1))
    assert not replace(CERTIFICATE, threshold=None).accepts(1e9)


def test_several_tasks_in_one_file(tmp_path: Path) -> None:
    other = replace(
        CERTIFICATE,
        task="other",
        status=Status.NOT_CERTIFIED,
        threshold=None,
        error_upper_bound=None,
    )
    path = tmp_path / "c.json"
    path.write_text(certificates_to_json((other, CERTIFICATE)))
    document = json.loads(path.read_text())
    assert (document["status"], document["threshold"]) == ("not_certified", None)
    assert Certificate.load(path, task="triage") == CERTIFICATE
    assert Certificate.load(path, task="other") == other
    with pytest.raises(CalibrationError, match="name one"):
        Certificate.load(path)
    with pytest.raises(CalibrationError, match="holds 0"):
        Certificate.load(path, task="third")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "perhaps"),
        ("status", "not_certified"),
        ("threshold", "high"),
        ("local_share", 1.5),
        ("n", -1),
        ("fingerprint", "abc"),
        ("surprise", 1),
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(json.loads(CERTIFICATE.to_json()) | {key: value}))
    with pytest.raises(CalibrationError, match="calibrate again"):
        Certificate.load(path)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="partition calibrate"):
        Certificate.load(tmp_path / "none.json")
