"""A small model, a site that serves it, the service itself and a device that calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cloud_harness import Client, RunningCloud, Site, running_cloud
from tests.tiny_models import make_folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture
def site(tmp_path: Path, model: Path) -> Site:
    return Site.make(tmp_path / "site", model)


@pytest.fixture
async def cloud(site: Site, request: pytest.FixtureRequest) -> AsyncIterator[RunningCloud]:
    """With the sections of its configuration that a test gives as the parameter."""
    async with running_cloud(site, **getattr(request, "param", {})) as running:
        yield running


@pytest.fixture
async def client(cloud: RunningCloud) -> AsyncIterator[Client]:
    async with cloud.client() as opened:
        yield opened
