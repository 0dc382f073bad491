"""A device whose system calls fail: ``python -m tests.killed_device FOLDER``, one JSON command and one answer a line.

A fork of this process does one whole update; strace, attached to it, kills it at its K-th call that changes the disk, or
has that call fail. Then this process looks at what is left, and goes on with it. Nothing is imported twice, so a try
takes a tenth of a second, and every call of an install can have its own.

    ["rename:signal=KILL:when=7"]
    -> {"outcome": "killed", "started": "cxr-1", "ended": "cxr-2", "sent_bytes": 1234, "problem": "", "calls": [...]}
"""

from __future__ import annotations

import ctypes
import json
import logging
import mmap
import os
import shutil
import struct
import subprocess
import sys
import traceback
from pathlib import Path

from edge_agent.sync.boot import start
from edge_agent.sync.disk import Disk
from edge_agent.sync.errors import SyncError
from edge_agent.sync.records import State
from edge_agent.sync.store import ReleaseStore
from tests.sync_simulators import SimulatedCloud
from tests.sync_world import World, begin_update, install_and_confirm

# Every call by which an install changes the disk; opening a file changes nothing that the next call does not show.
CALLS = (
    "write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,"
    "truncate,ftruncate,mkdir,mkdirat,rmdir"
)
WRITES = (
    "write,pwrite64,writev,mkdir,mkdirat,link,linkat,symlink,symlinkat"  # what a full disk refuses
)
_SET_PTRACER, _ANY = 0x59616D61, -1  # prctl(2)
_REFUSED, _CRASHED = 3, 4
_shared = mmap.mmap(-1, 8)  # the fork counts into it too


class SharedCloud(SimulatedCloud):
    """Counts what it sends over all processes."""

    @property
    def sent_bytes(self):
        return struct.unpack("q", _shared[:8])[0]

    @sent_bytes.setter
    def sent_bytes(self, value):
        _shared[:8] = struct.pack("q", value)


def fork_device(world, folder, log):
    """Start a process that waits for a byte, and then updates; returns its id and where the byte goes."""
    waits, goes = os.pipe()
    child = os.fork()
    if child:
        os.close(waits)
        return child, goes
    code = 0
    try:
        ctypes.CDLL(None).prctl(_SET_PTRACER, _ANY, 0, 0, 0)
        os.close(goes)
        os.read(waits, 1)
        start(folder)
        install_and_confirm(world, folder)
    except SyncError:
        code = _REFUSED
    except BaseException:
        log.write_text(traceback.format_exc())
        code = _CRASHED
    finally:
        os._exit(code)


def attempt(world, folder, injections):
    """Run one update under strace, which counts each kind of call by itself; returns how it ended."""
    log = folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    child, goes = fork_device(world, folder, log)
    words = [word for injection in injections for word in ("-e", f"inject={injection}")]
    words += ["-e", f"trace={CALLS}", "-o", folder.with_suffix(".calls")]
    tracer = subprocess.Popen(
        ["strace", "-p", str(child), *words], stderr=subprocess.PIPE, text=True
    )
    said = tracer.stderr.readline()
    os.write(goes, b".")
    os.close(goes)
    _, status = os.waitpid(child, 0)
    tracer.stderr.close()
    tracer.wait()
    if "attached" not in said:
        return f"untraced: {said.strip()}"
    if os.WIFSIGNALED(status):
        return "killed"
    code = os.waitstatus_to_exitcode(status)
    if code == _CRASHED:
        return f"crashed: {log.read_text()}"
    if "INJECTED" not in folder.with_suffix(".calls").read_text():
        return "untouched"
    return "refused" if code == _REFUSED else "went on"


def look(folder):
    """Start the device as after a reboot; returns what runs and what is wrong with it."""
    boot = start(folder)
    store = ReleaseStore(folder, Disk())
    if boot.release not in ("cxr-1", "cxr-2") or not store.verify(boot.release):
        return boot.release, "does not start whole"
    if store.current != boot.release:
        return boot.release, "the link is another's"
    return boot.release, "" if boot.may_update else "may not update"


def go_on(world, folder):
    """Run the next cycle; returns what runs in the end and what is wrong with it."""
    client = world.device(folder=folder)
    try:
        result = client.run_cycle()
        client.observe(seconds=2000, answers=50)
        client.run_cycle()
        client.journal.check_integrity()
        record = client.journal.record("cxr-2")
        if record is None or record.state is not State.CONFIRMED:
            return result.running, f"does not converge: {result}"
        names = ("cxr-2", client.journal.running.previous)
        whole = all(client.store.verify(name) for name in names)
        return result.running, "" if whole else "ends torn"
    finally:
        client.close()
        world.clients.clear()


def main(folder):
    logging.disable()
    world = World(folder)
    world.cloud = SharedCloud(world.publisher.repository)
    begin_update(world)
    for line in sys.stdin:
        work = folder / "work"
        shutil.copytree(world.folder, work, symlinks=True)
        world.cloud.sent_bytes = 0
        outcome = attempt(world, work, json.loads(line))
        started, problem = look(work)
        ended, later = go_on(world, work)
        found = {"outcome": outcome, "started": started, "ended": ended}
        found |= {"sent_bytes": world.cloud.sent_bytes, "problem": problem or later}
        lines = work.with_suffix(".calls").read_text().splitlines()
        found["calls"] = [line.split("(")[0] for line in lines if "(" in line]
        print(json.dumps(found), flush=True)
        shutil.rmtree(work)
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
