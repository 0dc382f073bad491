from __future__ import annotations

import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_agent.errors import (
    OutboxBusyError,
    OutboxConflictError,
    OutboxCorruptError,
    OutboxError,
    OutboxFullError,
    OutboxKeyError,
)
from edge_agent.metrics import Metrics
from edge_agent.outbox.outbox import Kind, Outbox, OutboxLimits, State
from edge_agent.outbox.sequence import SEQ_BLOCK
from edge_agent.sealing import SealBrokenError
from tests.outbox_helpers import Text, open_outbox
from tests.simulators import Clock

SECRET = "Joana Q. Fictitious"
ROOT = Path(__file__).parents[3]


def put(outbox: Outbox, name: str, kind: Kind = Kind.GENERATE, text: str = SECRET) -> bool:
    return outbox.put(
        name, kind=kind, payload=Text(text), content=text.encode(), vault=Text(f"vault of {text}")
    )


def deliver(outbox: Outbox, answer: str = "answer") -> str | None:
    leased = outbox.lease(Kind.GENERATE)
    if leased is None:
        return None
    outbox.done(leased, Text(answer))
    return leased.payload.open(Text.from_sealed).text


def stored_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("outbox.db*")))


def test_a_requests_whole_way(tmp_path: Path) -> None:
    clock = Clock()
    with open_outbox(tmp_path, clock=clock) as outbox:
        assert put(outbox, "r-1") and outbox.state("r-1") is State.READY
        assert outbox.collect("r-1") is None
        leased = outbox.lease(Kind.GENERATE)
        assert leased is not None and leased.attempt == 1
        assert leased.payload.open(Text.from_sealed) == Text(SECRET)
        assert outbox.state("r-1") is State.LEASED and outbox.lease(Kind.GENERATE) is None
        clock.advance(5)
        assert outbox.done(leased, Text("late"))
        for _ in range(2):
            collected = outbox.collect("r-1")
            assert collected is not None and collected.waited_s == 5
            assert collected.answer.open(Text.from_sealed) == Text("late")
            assert collected.vault is not None
            assert collected.vault.open(Text.from_sealed) == Text(f"vault of {SECRET}")
        assert outbox.forget("r-1") and not outbox.forget("r-1")
        assert outbox.state("r-1") is None and outbox.counts().stored_bytes == 0
        outbox.check_integrity()


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        put(outbox, "r-1", text="one")
        put(outbox, "r-2", text="two")
        deliver(outbox)
    with open_outbox(tmp_path) as outbox:
        collected = outbox.collect("r-1")
        assert collected is not None and collected.answer.open(Text.from_sealed).text == "answer"
        assert deliver(outbox) == "two"


def test_oldest_first_within_a_kind(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        for index in range(20):
            put(outbox, f"r-{index}", text=f"{index}")
            put(outbox, f"f-{index}", Kind.REPORT, text=f"report {index}")
        assert [deliver(outbox) for _ in range(21)] == [*map(str, range(20)), None]
        leased = outbox.lease(Kind.REPORT)
        assert leased is not None and leased.payload.open(Text.from_sealed).text == "report 0"
        assert outbox.done(leased) and outbox.state("f-0") is None


def test_the_same_request_is_stored_once(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        assert put(outbox, "r-1") and not put(outbox, "r-1")
        deliver(outbox)
        assert not put(outbox, "r-1"), "answered already"
        with pytest.raises(OutboxConflictError) as caught:
            put(outbox, "r-1", text="another")
        assert "another request" in str(caught.value) and SECRET not in str(caught.value)
        assert outbox.counts().done == 1


def test_nothing_readable_on_disk(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        put(outbox, f"accession {SECRET}")
        put(outbox, "r-2")
        deliver(outbox, answer=f"answer for {SECRET}")
        content = stored_bytes(tmp_path)
        for word in (SECRET, "Fictitious", "accession", "vault of", "answer for"):
            assert word.encode() not in content
    for path in tmp_path.glob("outbox.db"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_forgotten_content_is_overwritten(tmp_path: Path) -> None:
    class Plain:
        def to_sealed(self, _key: bytes, _aad: bytes) -> bytes:
            return b"RECOGNISABLE" * 100  # ciphertext would not be found even if it stayed

    with open_outbox(tmp_path) as outbox:
        outbox.put("r-1", kind=Kind.GENERATE, payload=Plain(), content=b"")
        assert outbox.forget("r-1")
    assert b"RECOGNISABLE" not in stored_bytes(tmp_path)


@pytest.mark.parametrize("change", [{"tenant": "other"}, {"device": "ct-2"}])
def test_items_are_bound_to_their_owner(tmp_path: Path, change: dict[str, str]) -> None:
    with open_outbox(tmp_path) as outbox:
        put(outbox, "r-1")
    with open_outbox(tmp_path, **change) as outbox:
        leased = outbox.lease(Kind.GENERATE)
        assert leased is not None
        with pytest.raises(SealBrokenError):
            leased.payload.open(Text.from_sealed)


def test_columns_cannot_be_exchanged(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        put(outbox, "r-1", text="one")
        put(outbox, "r-2", text="two")
        for statement in (
            "UPDATE outbox SET payload_enc = (SELECT payload_enc FROM outbox WHERE seq = 1) WHERE seq = 0",
            "UPDATE outbox SET payload_enc = vault_enc",
        ):
            with sqlite3.connect(tmp_path / "outbox.db", isolation_level=None) as other:
                other.execute(statement)
            other.close()
            outbox.release_leases()
            leased = outbox.lease(Kind.GENERATE)
            assert leased is not None
            with pytest.raises(SealBrokenError):
                leased.payload.open(Text.from_sealed)


# --- leases, failures, death


def test_a_lease_ends_and_the_late_worker_changes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    with open_outbox(tmp_path, clock=clock) as outbox:
        put(outbox, "r-1")
        first = outbox.lease(Kind.GENERATE)
        clock.advance(61)
        second = outbox.lease(Kind.GENERATE)
        assert first is not None and second is not None and second.attempt == 2
        assert not outbox.fail(first, reason="late") and not outbox.bury(first, reason="late")
        assert outbox.done(first, Text("first")), "its answer is the request's answer all the same"
        assert not outbox.done(second, Text("second"))
        collected = outbox.collect("r-1")
        assert collected is not None and collected.answer.open(Text.from_sealed).text == "first"


def test_a_failed_item_steps_aside_for_its_pause(tmp_path: Path) -> None:
    clock = Clock()
    with open_outbox(tmp_path, clock=clock) as outbox:
        put(outbox, "r-1", text="one")
        put(outbox, "r-2", text="two")
        leased = outbox.lease(Kind.GENERATE)
        assert leased is not None and outbox.fail(leased, reason="slow", pause_s=30)
        assert deliver(outbox) == "two"
        assert deliver(outbox) is None
        clock.advance(31)
        assert deliver(outbox) == "one"


def test_attempts_count_only_the_items_own_failures(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        put(outbox, "r-1")
        for expected, counts in ((1, False), (1, True), (2, False), (2, True)):
            leased = outbox.lease(Kind.GENERATE)
            assert leased is not None and leased.attempt == expected
            outbox.fail(leased, reason="?", counts=counts)


@pytest.mark.parametrize("jump_s", [-86_400 * 365, 86_400])
def test_a_changed_clock_blocks_nothing(tmp_path: Path, jump_s: float) -> None:
    clock = Clock()
    with open_outbox(tmp_path, clock=clock) as outbox:
        put(outbox, "r-1")
        put(outbox, "r-2")
        assert outbox.lease(Kind.GENERATE) is not None
        paused = outbox.lease(Kind.GENERATE)
        assert paused is not None
        outbox.fail(paused, reason="?", pause_s=1e9)
        clock.advance(jump_s)
        assert deliver(outbox) is not None and deliver(outbox) is not None


def test_the_dead_are_kept_counted_and_can_be_revived(tmp_path: Path) -> None:
    metrics = Metrics()
    with open_outbox(tmp_path, metrics=metrics) as outbox:
        put(outbox, "r-1")
        leased = outbox.lease(Kind.GENERATE)
        assert leased is not None and outbox.bury(leased, reason="the cloud refuses it")
        assert metrics.registry.get_sample_value("tandem_outbox_dead_total") == 1
        assert outbox.lease(Kind.GENERATE) is None
    with open_outbox(tmp_path) as outbox:
        (dead,) = outbox.dead()
        assert (dead.reason, dead.attempts, dead.kind) == ("the cloud refuses it", 1, Kind.GENERATE)
        assert outbox.revive("r-1") and not outbox.revive("r-1")
        assert deliver(outbox) == SECRET


def test_what_waits_too_long_dies_and_what_nobody_collects_goes(tmp_path: Path) -> None:
    clock = Clock()
    limits = OutboxLimits(max_age_s=100)
    with open_outbox(tmp_path, clock=clock, limits=limits) as outbox:
        put(outbox, "r-1")
        deliver(outbox)
        put(outbox, "r-2")
        clock.advance(50)
        put(outbox, "r-3")
        assert outbox.expire() == 0
        clock.advance(51)
        assert outbox.expire() == 1
        assert (outbox.state("r-1"), outbox.state("r-2"), outbox.state("r-3")) == (
            None,
            State.DEAD,
            State.READY,
        )
        outbox.check_integrity()


def test_full_requests_are_rejected_reports_push_out_the_oldest(tmp_path: Path) -> None:
    with open_outbox(tmp_path, limits=OutboxLimits(max_bytes=2_000)) as outbox:
        num_stored = 0
        with pytest.raises(OutboxFullError, match="max_bytes"):
            for index in range(100):
                put(outbox, f"r-{index}")
                num_stored += 1
        assert 5 < num_stored < 30 and outbox.counts().waiting == num_stored
        with pytest.raises(OutboxFullError, match="larger than the whole"):
            put(outbox, "huge", text="x" * 3_000)
        assert deliver(outbox) is not None
        for index in range(num_stored):
            outbox.forget(f"r-{index}")
        for index in range(50):
            put(outbox, f"f-{index}", Kind.REPORT, text=f"report {index}")
        counts = outbox.counts()
        assert counts.stored_bytes <= 2_000 and counts.dead == 50 - counts.waiting > 0
        leased = outbox.lease(Kind.REPORT)
        assert leased is not None
        assert leased.payload.open(Text.from_sealed).text == f"report {counts.dead}"
        assert not outbox.revive("f-0"), "its content is gone, the row says why"
        outbox.check_integrity()


def test_counts_and_gauges(tmp_path: Path) -> None:
    clock, metrics = Clock(), Metrics()
    with open_outbox(tmp_path, clock=clock, metrics=metrics) as outbox:
        put(outbox, "r-1")
        clock.advance(9)
        put(outbox, "f-1", Kind.REPORT)
        counts = outbox.counts()
        assert counts.waiting == 2 and counts.oldest_waiting_s == 9
        assert counts.waiting_by_kind == {Kind.GENERATE: 1, Kind.REPORT: 1}
        value = metrics.registry.get_sample_value
        assert value("tandem_outbox_depth", {"kind": "generate"}) == 1
        assert value("tandem_outbox_oldest_seconds") == 9


# --- what can go wrong with a file


def test_a_locked_database(tmp_path: Path) -> None:
    with open_outbox(tmp_path, busy_timeout_s=0.1) as outbox:
        put(outbox, "r-1")
        other = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutboxBusyError, match="try again"):
            put(outbox, "r-2")
        with pytest.raises(OutboxBusyError):
            open_outbox(tmp_path, busy_timeout_s=0.1)
        other.execute("COMMIT")
        other.close()
        assert put(outbox, "r-2") and outbox.counts().waiting == 2


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        put(outbox, "r-1", text="small")
        # SQLite's own limit gives the very error that a full disk gives.
        pages = outbox._commits._connection.execute("PRAGMA page_count").fetchone()[0]
        outbox._commits._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OutboxFullError, match="free some space"):
            put(outbox, "r-2", text="x" * 500_000)
        with ThreadPoolExecutor(8) as pool:  # a large one does not take the small ones down with it
            sizes = [10, 500_000, 20, 500_000, 30]
            results = [
                pool.submit(put, outbox, f"s-{index}", Kind.GENERATE, "x" * size)
                for index, size in enumerate(sizes)
            ]
            stored = [
                size
                for size, result in zip(sizes, results, strict=True)
                if result.exception() is None
            ]
        assert stored == [10, 20, 30]
        outbox._commits._connection.execute("PRAGMA max_page_count = 1000000")
        assert put(outbox, "r-2", text="x" * 500_000)
        outbox.check_integrity()
        assert outbox.counts().waiting == 5


def test_another_key_opens_nothing_and_changes_nothing(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        put(outbox, "r-1")
    before = (tmp_path / "outbox.db").read_bytes()
    with pytest.raises(OutboxKeyError, match="restore the key file"):
        open_outbox(tmp_path, root_key=b"k" * 32)
    assert (tmp_path / "outbox.db").read_bytes() == before
    with open_outbox(tmp_path) as outbox:
        assert deliver(outbox) == SECRET


def test_files_that_are_no_outbox(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"not a database at all " * 500)
    with pytest.raises(OutboxCorruptError, match="no outbox"):
        open_outbox(tmp_path)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    with pytest.raises(OutboxCorruptError, match="no outbox"):
        open_outbox(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OutboxError):
        open_outbox(tmp_path)


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        for index in range(200):
            put(outbox, f"r-{index}")
    path = tmp_path / "outbox.db"
    content = bytearray(path.read_bytes())
    content[8192:20_000] = b"\xa5" * (20_000 - 8192)
    path.write_bytes(content)
    with pytest.raises(OutboxCorruptError, match="damaged"):
        open_outbox(tmp_path)


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    open_outbox(tmp_path).close()
    other = sqlite3.connect(tmp_path / "outbox.db")
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(OutboxCorruptError, match="update the agent"):
        open_outbox(tmp_path)


def test_integrity_check_sees_a_lost_content(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        put(outbox, "r-1")
        outbox.check_integrity()
        with sqlite3.connect(tmp_path / "outbox.db", isolation_level=None) as other:
            other.execute("UPDATE outbox SET payload_enc = NULL")
        other.close()
        with pytest.raises(OutboxCorruptError, match="no content"):
            outbox.check_integrity()


def epochs(folder: Path) -> list[tuple[int, int]]:
    other = sqlite3.connect(folder / "outbox.db")
    rows = other.execute("SELECT epoch, seq FROM outbox ORDER BY epoch, seq").fetchall()
    other.close()
    return [tuple(row) for row in rows]


def test_a_restored_backup_begins_a_new_epoch(tmp_path: Path) -> None:
    for names in (("a", "b"), ("c",)):  # an ordinary restart does not
        with open_outbox(tmp_path) as outbox:
            for name in names:
                put(outbox, name)
        if names == ("a", "b"):
            shutil.copy(tmp_path / "outbox.db", tmp_path / "backup")
    assert epochs(tmp_path) == [(0, 0), (0, 1), (0, 2)]
    shutil.copy(tmp_path / "backup", tmp_path / "outbox.db")
    with open_outbox(tmp_path) as outbox:
        put(outbox, "d")
        assert outbox.state("c") is None
    assert epochs(tmp_path) == [(0, 0), (0, 1), (1, 2)]


def test_sequence_numbers_over_many_blocks(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox, ThreadPoolExecutor(16) as pool:
        names = [f"r-{index}" for index in range(2 * SEQ_BLOCK + 10)]
        assert all(pool.map(lambda name: put(outbox, name), names))
        outbox.check_integrity()
    assert epochs(tmp_path) == [(0, index) for index in range(len(names))]


def test_two_processes_worth_of_writers(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as one, open_outbox(tmp_path) as two, ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda index: put((one, two)[index % 2], f"r-{index}"), range(200)))
        assert all(done) and one.counts().waiting == two.counts().waiting == 200
        one.check_integrity()
        got = {deliver((one, two)[index % 2]) for index in range(200)}
        assert got == {SECRET} and one.counts().waiting == 0
        assert one.counts().stored_bytes == two.counts().stored_bytes


def test_closing(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    num_threads = threading.active_count()
    outbox.close()
    outbox.close()
    assert threading.active_count() == num_threads - 1
    with pytest.raises(OutboxError, match="closed"):
        put(outbox, "r-1")


WRITER = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from edge_agent.outbox.outbox import Kind
from tests.outbox_helpers import Text, open_outbox

outbox = open_outbox(Path({folder!r}))
lock = threading.Lock()

def work(worker):
    for index in range(100_000):
        name = f"{{worker}}-{{index}}"
        outbox.put(name, kind=Kind.GENERATE, payload=Text(name), content=name.encode())
        with lock:
            print(name, flush=True)

for worker in range(4):
    threading.Thread(target=work, args=("{run}-" + str(worker),)).start()
"""


def test_kill_9_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    promised: list[str] = []
    for run in range(3):
        script = WRITER.format(root=str(ROOT), folder=str(tmp_path), run=run)
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        promised += [process.stdout.readline().strip() for _ in range(50)]
        time.sleep(0.01 * run)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
        process.stdout.close()
        process.wait()
        promised += [line for line in rest if line.count("-") == 2][
            :-1
        ]  # the last may be cut short
        with open_outbox(tmp_path) as outbox:
            outbox.check_integrity()
            assert all(outbox.state(name) is State.READY for name in promised)
    with open_outbox(tmp_path) as outbox:
        assert outbox.counts().waiting >= len(promised) >= 150
        assert len({epoch for epoch, _ in epochs(tmp_path)}) == 1, "a crash is no restored backup"
