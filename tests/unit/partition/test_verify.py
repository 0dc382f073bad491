"""Positions of a VERIFY round, acceptance, and the whole protocol over a link that drops, repeats and reorders."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.errors import FrameError
from partition.extend.frames import (
    Agreement,
    Extend,
    Extended,
    NeedPrefill,
    Reply,
    Stale,
    Work,
    prefix_hash,
    row_hashes,
)
from partition.extend.verify import DraftingSession, VerifyingSession, accept

KEY = bytes(range(32))
END = 0
VOCABULARY = 11


def target(prefix: tuple[int, ...]) -> int:
    """The verifier's token after a prefix: any deterministic function will do."""
    return hashlib.sha256(bytes(prefix)).digest()[0] % VOCABULARY


def test_accept_takes_the_longest_right_run() -> None:
    assert accept([5, 6, 7], [5, 6, 7, 8]) == (3, 8)
    assert accept([5, 6, 7], [5, 9, 7, 8]) == (1, 9)
    assert accept([5, 6, 7], [4, 6, 7, 8]) == (0, 4)
    assert accept([], [4]) == (0, 4)


def test_an_accepted_end_becomes_the_next_id() -> None:
    assert accept([5, END, 7], [5, END, 7, 8], {END}) == (1, END)


def test_accept_wants_one_target_more() -> None:
    with pytest.raises(ValueError, match="one more"):
        accept([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("num_accepted", "cloud", "device"), [(2, 12, 12), (3, 13, 12), (0, 10, 10)]
)
def test_positions_of_the_worked_example(num_accepted: int, cloud: int, device: int) -> None:
    """L = 10 and three drafts: the figures of the method's own check."""
    session = DraftingSession(range(1, 10), max_new_tokens=9, key=KEY, end_ids={END})
    session.open_frame()
    session.take(Extended(round=1, len_after=9, num_accepted=0, next_id=1))
    assert len(session.ids) == 10
    session.cached_len = 12  # ten committed ids and two of the three drafts
    frame = session.open_frame([5, 6, 7])
    assert (frame.base_len, frame.ids) == (9, (1, 5, 6, 7))
    new = session.take(
        Extended(round=2, len_after=10 + num_accepted, num_accepted=num_accepted, next_id=8)
    )
    assert new == (*(5, 6, 7)[:num_accepted], 8)
    assert len(session.ids) == 11 + num_accepted
    assert session.open_frame().base_len == cloud
    assert session.cached_len == device
    assert len(session.to_feed) == (2 if num_accepted == 3 else 1)


def test_a_reply_that_cannot_be_is_an_error() -> None:
    for wrong in (
        Extended(round=1, len_after=3, num_accepted=1, next_id=1),
        Extended(round=1, len_after=4, num_accepted=0, next_id=1),
        NeedPrefill(round=1, known_len=3),
    ):
        session = DraftingSession([1, 2, 3], max_new_tokens=4, key=KEY, end_ids={END})
        session.open_frame()
        with pytest.raises(FrameError, match="cloud"):
            session.take(wrong)


def test_the_prefix_hash_is_keyed_blake2b_over_little_endian_words() -> None:
    data = b"\x01\x00\x00\x00\x00\x02\x00\x00"
    expected = hashlib.blake2b(data, key=KEY, digest_size=8).digest()
    assert prefix_hash(KEY, [1, 512]) == expected
    assert prefix_hash(bytes(32), [1, 512]) != expected
    assert row_hashes(KEY, [1, 512, 7], 1) == (expected, prefix_hash(KEY, [1, 512, 7]))


def test_the_first_difference_is_named() -> None:
    ours = Agreement(
        fingerprint="f", tokenizer_sha256="t", chat_template_sha256="c", vocabulary_size=9
    )
    assert ours.first_difference(ours) is None
    assert ours.first_difference(replace(ours, vocabulary_size=8)) == "vocabulary_size"
    assert ours.first_difference(replace(ours, tokenizer_sha256="x")) == "tokenizer_sha256"


@pytest.mark.parametrize(
    "change",
    [
        {"ids": (), "num_positions": 0},
        {"num_positions": 3},
        {"draft_len": 2},
        {"draft_len": -1},
        {"ids": (1, 99)},
        {"ids": (-1, 2)},
        {"base_len": -1},
        {"base_len": 63},
        {"prefix_hash": b"short"},
        {"activations": b"x"},
    ],
)
def test_a_hostile_frame_is_refused(change: dict[str, object]) -> None:
    frame = Extend(
        round=1, base_len=0, prefix_hash=bytes(8), ids=(1, 2), num_positions=2, draft_len=1
    )
    frame.check_ids(vocabulary_size=99, max_positions=64)
    with pytest.raises(FrameError):
        replace(frame, **change).check_ids(  # type: ignore[arg-type]
            vocabulary_size=99, max_positions=64
        )


class Cloud:
    """A verifier with a cache of its own, so that a wrong crop shows."""

    def __init__(self) -> None:
        self.session = VerifyingSession(key=KEY, end_ids={END})
        self.cache: list[int] = []
        self.num_worked = 0

    def evict(self) -> None:
        self.session = VerifyingSession(key=KEY, end_ids={END})
        self.cache = []

    def handle(self, frame: Extend) -> Reply:
        work = self.session.admit(frame)
        if not isinstance(work, Work):
            return work
        self.num_worked += 1
        del self.cache[work.crop_to :]
        self.cache.extend(int(token) for token in work.ids)
        first = len(self.cache) - frame.draft_len
        targets = [
            target(tuple(self.cache[:length])) for length in range(first, len(self.cache) + 1)
        ]
        reply = self.session.settle(work, targets)
        del self.cache[reply.len_after :]
        assert tuple(self.cache) == self.session.ids
        return reply


def reference(prompt: tuple[int, ...], limit: int) -> tuple[int, ...]:
    ids = list(prompt)
    for _ in range(limit):
        ids.append(target(tuple(ids)))
        if ids[-1] == END:
            break
    return tuple(ids[len(prompt) :])


@settings(max_examples=150, deadline=None)
@given(
    prompt=st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=6).map(tuple),
    limit=st.integers(1, 12),
    data=st.data(),
)
def test_text_is_the_clouds_own_over_any_link(
    prompt: tuple[int, ...], limit: int, data: st.DataObject
) -> None:
    device = DraftingSession(prompt, max_new_tokens=limit, key=KEY, end_ids={END})
    cloud = Cloud()
    cache: list[int] = []  # the device's own
    up: list[Extend] = []
    down: list[Reply] = []
    streamed: list[int] = []
    for step in range(400):
        device.check_integrity()
        if device.is_finished:
            break
        if device.in_flight is None:
            del cache[device.cached_len :]
            cache.extend(device.to_feed)
            drafts: list[int] = []
            for _ in range(data.draw(st.integers(0, min(4, device.most_drafts)))):
                right = target((*device.ids, *drafts))
                drafts.append(right if data.draw(st.booleans()) else data.draw(st.integers(0, 9)))
            cache.extend(drafts[:-1])
            device.cached_len = len(cache)
            device.open_frame(drafts)
        fault = data.draw(st.integers(0, 7)) if step < 60 else 7
        assert device.in_flight is not None
        up.append(device.in_flight)
        if fault == 0:
            up.clear()  # lost
        elif fault == 1:
            up.append(up[-1])  # twice
        elif fault == 2:
            up.reverse()
        elif fault == 3:
            cloud.evict()
        if fault != 4:  # 4: nothing arrives yet
            down.extend(cloud.handle(frame) for frame in up)
            if fault != 5:  # 5: the replies come, and the same frames come again later
                up.clear()
        if fault == 6:
            down.reverse()
        for reply in down:
            new = device.take(reply)
            if new is not None:
                streamed.extend(new)
                assert tuple(cache[: device.cached_len]) == (device.ids)[: device.cached_len]
        down = [down[0]] if down and fault == 5 else []
    assert device.answer == tuple(streamed) == reference(prompt, limit)


def test_a_repeated_round_costs_no_work_and_an_old_one_is_stale() -> None:
    cloud = Cloud()
    device = DraftingSession([1, 2, 3], max_new_tokens=8, key=KEY, end_ids=set())
    first = device.open_frame()
    reply = cloud.handle(first)
    assert cloud.handle(first) == reply
    assert cloud.num_worked == 1
    device.take(reply)
    second = device.open_frame([4])
    cloud.handle(second)
    assert cloud.handle(first) == Stale(round=1, last_round=2)
    assert cloud.num_worked == 2


def test_another_prefix_under_the_same_length_is_prefilled_again() -> None:
    cloud = Cloud()
    cloud.handle(DraftingSession([1, 2, 3], max_new_tokens=8, key=KEY, end_ids=set()).open_frame())
    other = Extend(
        round=9, base_len=2, prefix_hash=prefix_hash(KEY, [1, 7]), ids=(3,), num_positions=1
    )
    assert cloud.handle(other) == NeedPrefill(round=9, known_len=0)


def test_a_lost_session_is_prefilled_without_drafts() -> None:
    cloud = Cloud()
    device = DraftingSession([1, 2, 3], max_new_tokens=8, key=KEY, end_ids=set())
    device.take(cloud.handle(device.open_frame()))
    cloud.evict()
    assert device.take(cloud.handle(device.open_frame([1, 2]))) == ()
    assert (device.most_drafts, device.num_prefills) == (0, 1)
    frame = device.open_frame()
    assert (frame.base_len, frame.draft_len, len(frame.ids)) == (0, 0, 4)


def test_ids_are_not_in_the_repr() -> None:
    frame = DraftingSession([1234, 2], max_new_tokens=2, key=KEY, end_ids=set()).open_frame()
    assert "1234" not in repr(frame)
    assert np.asarray(frame.ids).tolist() == [1234, 2]
