"""Kill -9, a full disk and a failing disk at the system calls of an install: the device starts whole, and converges."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from partition.release.manifest import PART_BYTES
from tests.killed_device import WRITES

ROOT = Path(__file__).parents[4]
SMALL_FILES = 8192  # the manifest and the channel's document are fetched anew


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

    def update(self, *injections):
        self._process.stdin.write(json.dumps(injections) + "\n")
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
    """Return the calls of an update that nothing happens to, in order, and the bytes it takes."""
    found = device.update()
    if found["outcome"].startswith("untraced"):
        pytest.skip(f"this system lets nobody trace a process: {found['outcome']}")
    assert (found["outcome"], found["problem"], found["ended"]) == ("untouched", "", "cxr-2")
    assert len(found["calls"]) > 150
    return found["calls"], found["sent_bytes"]


def once(calls, what, every=1):
    """Yield one injection for every n-th call: strace counts each kind of call by itself."""
    for at in range(0, len(calls), every):
        yield (f"{calls[at]}:{what}:when={calls[: at + 1].count(calls[at])}",)


def full_from(calls, every=1):
    """Yield, for every n-th write, what a disk does that is full from there on."""
    kinds = WRITES.split(",")
    for at in [at for at, call in enumerate(calls) if call in kinds][::every]:
        yield tuple(
            f"{kind}:error=ENOSPC:when={calls[:at].count(kind) + 1}+"
            for kind in kinds
            if kind in calls
        )


def kill_at(device, calls, needed, every=1):
    started, num_killed = set(), 0
    for injections in once(calls, "signal=KILL", every):
        found = device.update(*injections)
        assert (found["outcome"], found["problem"]) == ("killed", ""), (injections, found)
        assert found["ended"] == "cxr-2", (injections, found)
        assert found["sent_bytes"] <= needed + PART_BYTES + SMALL_FILES, (injections, found)
        started.add(found["started"])
        num_killed += 1
    assert started == {"cxr-1", "cxr-2"}
    return num_killed


def fail_at(device, every):
    outcomes = []
    for injections in every:
        found = device.update(*injections)
        assert (found["problem"], found["ended"]) == ("", "cxr-2"), (injections, found)
        assert found["outcome"] in ("refused", "went on"), (injections, found)
        outcomes.append(found["outcome"])
    return outcomes


def test_kill_at_some_system_calls(device):
    calls, needed = whole_run(device)
    kill_at(device, calls, needed, every=9)


def test_disk_that_fails_or_is_full_at_some_calls(device):
    calls, _ = whole_run(device)
    fail_at(device, once(calls, "error=EIO", every=17))
    assert "refused" in fail_at(device, full_from(calls, every=11))


@pytest.mark.slow
def test_kill_at_every_system_call(device):
    calls, needed = whole_run(device)
    print(f"system calls at which the install was killed: {kill_at(device, calls, needed)}")


@pytest.mark.slow
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_disk_that_fails_once_at_every_call(device, error):
    calls, _ = whole_run(device)
    outcomes = fail_at(device, once(calls, f"error={error}"))
    print(f"calls that failed once with {error}: {len(outcomes)}")


@pytest.mark.slow
def test_disk_that_is_full_from_every_write_on(device):
    calls, _ = whole_run(device)
    outcomes = fail_at(device, full_from(calls))
    print(f"writes from which on the disk was full: {len(outcomes)}")
