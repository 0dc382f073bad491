"""A ring opens at the policy's rate, nests, and does not count as done before it is all open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.errors import RolloutError
from cloud_service.fleet.policy_file import load_policy
from cloud_service.fleet.ring_rate import RingRate, buckets_open
from cloud_service.fleet.rollout import AbortRule, Action, Policy, decide


@pytest.mark.parametrize(
    ("rate", "minutes", "expected"),
    [
        (RingRate(base_per_minute=5), 0, 5),
        (RingRate(base_per_minute=5), 0.99, 5),
        (RingRate(base_per_minute=5), 3, 20),
        (RingRate(base_per_minute=2, increment_factor=2), 3, 2 + 4 + 8 + 16),
        (RingRate(base_per_minute=2, increment_factor=2, max_per_minute=5), 3, 2 + 4 + 5 + 5),
        (RingRate(base_per_minute=0.25), 0, 1),
        (RingRate(base_per_minute=1, increment_factor=10), 100_000, 10**9),
    ],
)
def test_devices_that_may_have_begun(rate, minutes, expected):
    assert rate.opened(60 * minutes) == expected


@given(
    st.lists(st.integers(0, 9999), max_size=60),
    st.integers(0, 5000),
    st.integers(5000, 10_000),
    st.floats(0.1, 50),
    st.floats(0, 7200),
)
def test_opens_the_ring_in_order_and_never_more(places, before, ring, per_minute, elapsed_s):
    rate = RingRate(base_per_minute=per_minute)
    found = buckets_open(rate, elapsed_s, ring=ring, before=before, places=places)
    inside = [place for place in places if before <= place < ring]
    assert before <= found <= ring
    begun = sum(place < found for place in inside)
    assert begun <= max(rate.opened(elapsed_s), 0)
    later = buckets_open(rate, elapsed_s + 60, ring=ring, before=before, places=places)
    assert later >= found
    end = buckets_open(rate, 1e6, ring=ring, before=before, places=places)
    assert end == ring
    assert buckets_open(None, 0, ring=ring, before=before, places=places) == ring


def test_ring_that_is_opening_waits_but_still_aborts():
    def step(devices):
        return decide(
            devices, Policy(soak_s=0), ring_began_s=0, is_last_ring=False, now_s=9, is_opening=True
        ).action

    assert step([]) is Action.WAIT


def write(path, text):
    path.write_text(text)
    return path


def test_policy_file(tmp_path):
    path = write(
        tmp_path / "policy.toml",
        """
        [rollout]
        steps_percent = [5, 100]
        soak_hours = 2
        rate = {base_per_minute = 5, increment_factor = 1.5, max_per_minute = 100}
        abort = [{on = "ROLLED_BACK", min_executed = 10, threshold_percent = 20}]
        """,
    )
    assert load_policy(path) == Policy(
        steps_percent=(5.0, 100.0),
        soak_s=7200.0,
        rate=RingRate(base_per_minute=5, increment_factor=1.5, max_per_minute=100),
        abort=(AbortRule(on="ROLLED_BACK", min_executed=10, threshold_percent=20),),
    )


@pytest.mark.parametrize(
    "text",
    [
        "no toml",
        "",
        "[rollout]\nsteps_percent = [5, 50]",
        "[rollout]\nsoak_hour = 3",
        "[rollout]\nfalse_abort = 1.5",
        "[rollout]\nrate = {base_per_minute = 0}",
        "[rollout]\nabort = [{on = 'REJECTED', min_executed = 1, threshold_percent = 1}]",
    ],
)
def test_wrong_policy_files_are_refused(tmp_path, text):
    with pytest.raises(RolloutError):
        load_policy(write(tmp_path / "policy.toml", text))
    with pytest.raises(RolloutError, match="cannot be read"):
        load_policy(tmp_path / "none.toml")
