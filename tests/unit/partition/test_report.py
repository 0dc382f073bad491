"""The calibration report: self-contained, escaped, and drawn by a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partition.calibration.calibration import Claim, Division, certify, divide
from partition.calibration.report import describe, write_report
from tests.worlds import WORLD_A, WORLD_B, World

CLAIM = Claim(max_error=0.05, confidence=0.95)


def division(world: World, n: int, **changes: object) -> Division:
    rng = np.random.default_rng(1)
    drawn = tuple(
        replace(
            record,
            features=(("opt_max", float(rng.random())),),
            cloud_correct=bool(rng.random() < 0.97),
            slices=(("site", "north" if rng.random() < 0.5 else "south"),),
            **changes,  # type: ignore[arg-type]
        )
        for record in world.draw(rng, n)
    )
    return divide(drawn)


def page(path: Path, *divisions: Division) -> str:
    write_report(path, divisions, [certify(item, CLAIM) for item in divisions], [0.7])
    return path.read_text()


def test_page_is_one_file_without_scripts_or_outside_parts(tmp_path: Path) -> None:
    text = page(tmp_path / "r.html", division(WORLD_B, 2000))
    assert text.count("<svg") == 4
    assert "<script" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", text)
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert "Certified:" in text
    assert "Slice by slice" in text


def test_names_from_the_records_are_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    text = page(tmp_path / "r.html", division(WORLD_B, 500, task=hostile))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_few_records_still_make_a_page(tmp_path: Path, n: int) -> None:
    text = page(tmp_path / "r.html", division(WORLD_A, n))
    assert "Not certified" in text
    assert "labelled records are needed" in text


@pytest.mark.parametrize("split", ["dev", "test"])
def test_one_sided_splits_still_make_a_page(tmp_path: Path, split: str) -> None:
    assert "Calibration report" in page(tmp_path / "r.html", division(WORLD_A, 300, split=split))


def test_baselines_stand_in_the_right_order() -> None:
    parts = division(WORLD_B, 2000)
    certificate = certify(parts, CLAIM)
    rows = {row.name: row for row in describe(parts, certificate).baselines}
    assert rows["edge only"].quality < rows["random"].quality < rows["Tandem"].quality
    assert rows["Tandem"].quality <= rows["oracle"].quality
    assert rows["opt_max"].quality < rows["Tandem"].quality  # the feature is noise here
    assert rows["Tandem"].local_share == certificate.local_share
    assert rows["Tandem"].local_error == pytest.approx(certificate.observed_error)


def test_unjudged_cloud_is_said_to_be_a_ceiling(tmp_path: Path) -> None:
    parts = divide(WORLD_B.draw(np.random.default_rng(1), 1000))
    assert describe(parts, certify(parts, CLAIM)).ceiling_assumed
    assert "taken\nas always right" in page(tmp_path / "r.html", parts)


def test_browser_draws_the_page(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here to take a screenshot with")
    from matplotlib.image import imread

    page(tmp_path / "r.html", division(WORLD_B, 2000, task="triage"))
    picture = tmp_path / "r.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    folder = f"--user-data-dir={tmp_path / 'profile'}"
    target = [f"--screenshot={picture}", "--window-size=1200,2600", f"file://{tmp_path / 'r.html'}"]
    subprocess.run(
        [browser, *options, folder, *target], check=True, capture_output=True, timeout=60
    )
    pixels = np.round(imread(picture)[..., :3] * 255).astype(int)
    assert pixels.shape[:2] == (2600, 1200)
    blue = (np.abs(pixels - [0x00, 0x72, 0xB2]).sum(axis=2) < 12).sum()
    green = (np.abs(pixels - [0x00, 0x9E, 0x73]).sum(axis=2) < 12).sum()
    assert blue > 5000  # the drawings
    assert green > 1000  # the verdict and the chosen threshold
