"""The short form of ``python -m benchmarks cloud_soak``: callers that hang up, read slowly or die leave nothing behind."""

from __future__ import annotations

from pathlib import Path

from benchmarks._served_cloud import served_cloud
from benchmarks.cloud_soak import SECTIONS, Soak
from tests.tiny_models import make_folder


async def test_callers_that_misbehave_leave_nothing_behind(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "tiny-llama")
    with served_cloud(str(model), sections=SECTIONS) as cloud:
        soak = Soak(cloud, seed=1, num_tokens=8)
        await soak.run(400)
    assert soak.ends.total() == 400
    assert soak.ends["answered"] > 150
    assert soak.ends["given up"] > 80
    assert set(soak.ends) <= {"answered", "given up", "CANCELLED"}
    assert soak.left == dict.fromkeys(soak.left, 0.0)
