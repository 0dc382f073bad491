import threading
from datetime import datetime
from pathlib import Path

import pytest

from edge_agent.config import EdgeConfig, SyncConfig
from edge_agent.errors import ConfigError
from edge_agent.sync.boot import Boot, start
from edge_agent.sync.device_name import device_id_of
from edge_agent.sync.journal import Journal
from edge_agent.sync.running import Stay, begin, with_release
from edge_agent.sync.switch import Switch
from edge_agent.sync.worker import may_fetch

MODEL = b"model" * 1000


def test_release_is_laid_over_the_configuration(tmp_path):
    config = EdgeConfig(state_folder=tmp_path, tasks=(Path("own"),), certificates=Path("old"))
    assert begin(config)[0] is config
    release = tmp_path / "release"
    for path in ("model.gguf", "tasks/t.toml", "certificates/t.json"):
        (release / path).parent.mkdir(parents=True, exist_ok=True)
        (release / path).write_text("x")
    running = with_release(config, Boot(release="cxr-1", folder=release))
    assert running.model.name == str(release / "model.gguf")
    assert running.tasks == (Path("own"), release / "tasks")
    assert running.certificates == release / "certificates"
    assert running.scorers is None
    (release / "model.gguf").unlink()
    assert with_release(config, Boot(release="cxr-1", folder=release)).model == config.model


def test_processes_that_end_well_do_not_use_up_the_trial(world):
    world.release("cxr-1", MODEL)
    client = world.device()
    client.run_cycle()
    for _ in range(5):
        Stay(world.folder, start(world.folder)).end(num_answers=2)
    assert client.journal.record("cxr-1").answers == 10
    assert client.journal.record("cxr-1").boots_left == 3
    counted = Stay(world.folder, start(world.folder))
    counted.is_counted = True
    counted.end(num_answers=100)
    assert client.journal.record("cxr-1").answers == 10
    for _ in range(3):
        start(world.folder)  # and crashes
    assert start(world.folder).release is None
    Stay(world.folder, Boot(release="cxr-1", folder=world.folder)).end(1)
    assert Journal(world.folder / "sync.db", world.device()._disk).running.release is None


def test_switch_serves_everybody_and_frees_the_old_after_its_last_user():
    switch = Switch("old")
    freed = []
    with switch.use() as outer:
        with switch.use() as inner:
            switch.replace("new", freed.append)
            with switch.use() as fresh:
                assert (outer, inner, fresh) == ("old", "old", "new")
        assert freed == []
    assert freed == ["old"]
    switch.replace("newer", freed.append)
    assert freed == ["old", "new"]


def test_switch_under_load_never_lends_what_was_freed():
    switch = Switch([True])
    wrong = []
    stop = threading.Event()

    def use():
        while not stop.is_set():
            with switch.use() as value:
                if not value[0]:
                    wrong.append(value)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        switch.replace([True], lambda old: old.__setitem__(0, False))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("quiet", "now", "expected"),
    [
        ("", "12:00", True),
        ("07:00-19:00", "06:59", True),
        ("07:00-19:00", "07:00", False),
        ("07:00-19:00", "18:59", False),
        ("07:00-19:00", "19:00", True),
        ("22:00-06:00", "23:00", False),
        ("22:00-06:00", "05:59", False),
        ("22:00-06:00", "12:00", True),
    ],
)
def test_quiet_hours(quiet, now, expected):
    local = datetime.fromisoformat(f"2027-01-01T{now}:00")
    assert may_fetch(SyncConfig(quiet_hours=quiet), local) is expected
    assert may_fetch(SyncConfig(quiet_hours=quiet, metered=True), local) is False


def test_device_is_called_what_its_certificate_says(tmp_path):
    from cloud_service.identity import Identity
    from cloud_service.tenancy import pki

    pki.create_authority(tmp_path)
    pair = pki.issue_device(tmp_path, Identity(tenant="clinic", device="ct-1"))
    assert device_id_of(pair.certificate) == "clinic/ct-1"
    for path in (
        pair.key,
        tmp_path / "none",
        pki.CertificateFolder(tmp_path).authority.certificate,
    ):
        with pytest.raises(ConfigError):
            device_id_of(path)
