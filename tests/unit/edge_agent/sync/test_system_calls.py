"""Kill -9, a full disk and a failing disk at the system calls of an install: the device starts whole, and converges."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from partition.release.manifest import PART_BYTES
from tests.killed_device import CALLS, WRITES

ROOT = Path(__file__).parents[4]
SMALL_FILES = 8192  # the manifest and the channel's document are fetched anew
WHOLE_RUN = {"calls": CALLS, "inject": "signal=KILL", "when": "65000"}


class Device:
    """The process that does the updates."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.killed_device", str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def update(self, **command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process died"
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(30) == 0


@pytest.fixture
def device(tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("needs strace, to fail single system calls")
    device = Device(tmp_path)
    yield device
    device.close()


def whole_run(device):
    """Return the number of calls of an update that nothing happens to, and the bytes it takes."""
    found = device.update(**WHOLE_RUN)
    if found["outcome"].startswith("untraced"):
        pytest.skip(f"this system lets nobody trace a process: {found['outcome']}")
    assert (found["problem"], found["ended"]) == ("", "cxr-2")
    return int(found["outcome"].removeprefix("untouched: ")), found["sent_bytes"]


def kill_at(device, calls, needed):
    started = set()
    for call in calls:
        found = device.update(calls=CALLS, inject="signal=KILL", when=str(call))
        assert (found["problem"], found["ended"]) == ("", "cxr-2"), (call, found)
        assert found["sent_bytes"] <= needed + PART_BYTES + SMALL_FILES, (call, found)
        if found["outcome"].startswith("untouched"):
            return started, call
        assert found["outcome"] == "killed", (call, found)
        started.add(found["started"])
    return started, None


def test_kill_at_some_system_calls(device):
    count, needed = whole_run(device)
    assert count > 150
    started, _ = kill_at(device, range(1, count, count // 24), needed)
    assert started == {"cxr-1", "cxr-2"}


@pytest.mark.slow
def test_kill_at_every_system_call(device):
    count, needed = whole_run(device)
    started, end = kill_at(device, itertools.count(1), needed)
    assert started == {"cxr-1", "cxr-2"}
    assert abs(end - 1 - count) <= 5
    print(f"system calls at which the install was killed: {end - 1}")


def fail_at(device, calls, inject, every):
    outcomes = []
    for call in every:
        found = device.update(calls=calls, inject=inject, when=f"{call}")
        assert (found["problem"], found["ended"]) == ("", "cxr-2"), (call, found)
        outcomes.append(found["outcome"].split(":")[0])
        if outcomes[-1] == "untouched":
            break
    assert set(outcomes) <= {"refused", "went on", "untouched"}, outcomes
    return outcomes


def full_from(calls):
    return (f"{call}+" for call in calls)


def test_disk_that_fails_or_is_full_at_some_calls(device):
    count, _ = whole_run(device)
    fail_at(device, CALLS, "error=EIO", range(2, count, count // 12))
    outcomes = fail_at(device, WRITES, "error=ENOSPC", full_from(range(2, count, count // 12)))
    assert "refused" in outcomes


@pytest.mark.slow
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_disk_that_fails_once_at_every_call(device, error):
    whole_run(device)
    outcomes = fail_at(device, CALLS, f"error={error}", itertools.count(1))
    assert outcomes[-1] == "untouched"
    print(f"calls that failed once with {error}: {len(outcomes) - 1}")


@pytest.mark.slow
def test_disk_that_is_full_from_every_write_on(device):
    whole_run(device)
    outcomes = fail_at(device, WRITES, "error=ENOSPC", full_from(itertools.count(1)))
    assert outcomes[-1] == "untouched"
    print(f"writes from which on the disk was full: {len(outcomes) - 1}")
