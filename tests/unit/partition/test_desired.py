import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partition.errors import ManifestError
from partition.release.desired import (
    NUM_BUCKETS,
    Desired,
    bucket_of,
    choose_release,
    device_digest,
    parse_desired,
)


def test_round_trip_and_unknown_fields():
    desired = Desired(
        version=3, salt="s", base="a-1", candidate="a-2", buckets=100, pins={"0" * 64: "a-0"}
    )
    assert parse_desired(desired.to_bytes()) == desired
    document = {**json.loads(desired.to_bytes()), "colour": "green"}
    assert parse_desired(json.dumps(document).encode()) == desired
    assert desired.releases() == ("a-0", "a-1", "a-2")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"version": 0},
        {"version": "3"},
        {"base": "../x"},
        {"buckets": 10_001},
        {"pins": {"device": "a-1"}},
    ],
)
def test_malformed_document_is_refused(changes):
    document = {**json.loads(Desired(version=3, salt="s", base="a-1").to_bytes()), **changes}
    with pytest.raises(ManifestError):
        parse_desired(json.dumps(document).encode())


@given(st.text(max_size=40), st.integers(0, NUM_BUCKETS), st.integers(0, NUM_BUCKETS))
def test_rings_nest(device, one, other):
    small, large = sorted((one, other))

    def chosen(buckets):
        return choose_release(
            Desired(version=1, salt="s", base="a-1", candidate="a-2", buckets=buckets), device
        )

    assert chosen(small) == "a-1" or chosen(large) == "a-2"
    assert chosen(0) == "a-1"
    assert chosen(NUM_BUCKETS) == "a-2"


def test_pin_wins_and_share_is_near_what_was_asked():
    devices = [f"clinic/ct-{number}" for number in range(5000)]
    desired = Desired(
        version=1,
        salt="a-2",
        base="a-1",
        candidate="a-2",
        buckets=1000,
        pins={device_digest(devices[0]): "a-0"},
    )
    assert choose_release(desired, devices[0]) == "a-0"
    share = sum(choose_release(desired, device) == "a-2" for device in devices) / len(devices)
    assert 0.08 < share < 0.12
    assert {bucket_of("a-2", d) for d in devices[:50]} != {
        bucket_of("a-3", d) for d in devices[:50]
    }
