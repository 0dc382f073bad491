import tempfile
from pathlib import Path

import pytest

from tests.sync_world import World


@pytest.fixture
def tmp_path(tmp_path):
    """A folder in memory where there is one: these tests sync thousands of times."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()
