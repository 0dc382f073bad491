import json

import pytest

from partition.errors import ManifestError
from partition.release.manifest import (
    PART_BYTES,
    Blob,
    BundleFile,
    FileDelta,
    GateLimits,
    Manifest,
    ReleaseKind,
    describe_blob,
    parse_manifest,
    runs_on,
)

DIGEST = "a" * 64


def a_manifest(**changes):
    blob = Blob(sha256=DIGEST, size_bytes=PART_BYTES + 1, parts=(DIGEST, "b" * 64))
    fields = {
        "release": "cxr-18",
        "release_counter": 18,
        "kind": ReleaseKind.FULL,
        "base_release": None,
        "min_runtime": "0.1.0",
        "fingerprint": "f" * 64,
        "files": (BundleFile(path="weights/model.gguf", blob=blob),),
        "deltas": (
            FileDelta(path="weights/model.gguf", base_sha256="c" * 64, codec="x", blob=blob),
        ),
        "golden": DIGEST,
        "gate": GateLimits(),
    }
    return Manifest(**{**fields, **changes})


def changed(**changes):
    document = json.loads(a_manifest().to_bytes())
    document.update(changes)
    return json.dumps(document).encode()


def test_manifest_round_trips_to_same_bytes():
    manifest = a_manifest()
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert parse_manifest(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


def test_unknown_field_is_ignored_and_unknown_schema_refused():
    assert parse_manifest(changed(colour="green")) == a_manifest()
    with pytest.raises(ManifestError, match="schema"):
        parse_manifest(changed(schema=2))


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a/../x", "a//b", "a\\b", "", ".", "..", "a/", "-rf", "a\n", ".hidden", "é"],
)
def test_path_that_leaves_its_folder_or_is_odd_is_refused(path):
    file = json.loads(a_manifest().to_bytes())["files"][0]
    with pytest.raises(ManifestError):
        parse_manifest(changed(files=[{**file, "path": path}], deltas=[]))


@pytest.mark.parametrize("release", ["", "A", "a/b", "..", "a.tmp", "a" * 64, "-a", "a\n"])
def test_release_name_is_one_plain_word(release):
    with pytest.raises(ManifestError):
        parse_manifest(changed(release=release))


@pytest.mark.parametrize(
    "changes",
    [
        {"golden": "d" * 64},
        {"kind": "adapter"},
        {"base_release": "cxr-17"},
        {"min_runtime": "new"},
        {"release_counter": -1},
        {"release_counter": True},
        {"files": []},
        {"gate": {"max_abs_logprob": -1, "label_match": 1, "p95_ratio": 1}},
    ],
)
def test_contradictions_are_refused(changes):
    with pytest.raises(ManifestError):
        parse_manifest(changed(**changes))


def test_parts_must_cover_the_bytes_and_paths_must_be_a_tree():
    file = json.loads(a_manifest().to_bytes())["files"][0]
    with pytest.raises(ManifestError, match="parts"):
        parse_manifest(changed(files=[{**file, "parts": [DIGEST]}], deltas=[]))
    with pytest.raises(ManifestError, match="same path"):
        parse_manifest(changed(files=[file, file], deltas=[]))
    with pytest.raises(ManifestError, match="folder"):
        parse_manifest(changed(files=[file, {**file, "path": "weights"}], deltas=[]))


def test_message_never_repeats_the_content():
    with pytest.raises(ManifestError) as caught:
        parse_manifest(changed(release="Secret Name"))
    assert "Secret" not in str(caught.value)


def test_oversized_manifest_is_refused_before_it_is_read():
    with pytest.raises(ManifestError, match="bytes"):
        parse_manifest(b"[" * 1_000_001)


def test_blob_is_hashed_by_parts(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(b"x" * (2 * PART_BYTES + 5))
    blob = describe_blob(path)
    assert (blob.size_bytes, len(blob.parts)) == (2 * PART_BYTES + 5, 3)
    assert blob.parts[0] == blob.parts[1] != blob.parts[2]


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [("0.1.0", True), ("0.1.0.dev3", True), ("0.0.9", False), ("1.0", True)],
)
def test_runtime_version_is_compared_by_number(runtime, expected):
    assert runs_on(a_manifest(), runtime) is expected
