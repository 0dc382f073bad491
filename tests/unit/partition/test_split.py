"""A SPLIT session over a link that drops, repeats and reorders; rows are known by their hashes alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.errors import FrameError
from partition.extend.frames import Extend, Extended, NeedPrefill, Reply, Work
from partition.extend.split import SplittingSession, TailSession

KEY = bytes(32)
END = 0


def target(prefix: bytes) -> int:
    return hashlib.sha256(prefix).digest()[0] % 9


class Tail:
    """A cloud half whose "hidden state" of a position is the id itself, as one byte."""

    def __init__(self) -> None:
        self.evict()

    def evict(self) -> None:
        self.session = TailSession(end_ids={END})
        self.rows = b""

    def handle(self, frame: Extend) -> Reply:
        work = self.session.admit(frame)
        if not isinstance(work, Work):
            return work
        self.rows = self.rows[: work.crop_to] + frame.activations
        assert len(self.rows) == frame.base_len + frame.num_positions
        return self.session.settle(work, target(self.rows))


@settings(max_examples=100, deadline=None)
@given(prompt=st.binary(min_size=1, max_size=6), limit=st.integers(1, 8), data=st.data())
def test_split_text_is_the_whole_models(prompt: bytes, limit: int, data: st.DataObject) -> None:
    device = SplittingSession(tuple(prompt), max_new_tokens=limit, key=KEY, end_ids={END})
    cloud = Tail()
    replies: list[Reply] = []
    for step in range(300):
        if device.is_finished:
            break
        if device.in_flight is None:
            count = data.draw(st.integers(1, len(device.to_send)))  # prefill in chunks
            device.open_frame(bytes(device.to_send[:count]), count)
        assert device.in_flight is not None
        fault = data.draw(st.integers(0, 4)) if step < 60 else 4
        if fault == 0:
            cloud.evict()
        if fault != 1:  # lost on the way there
            replies.append(cloud.handle(device.in_flight))
        if fault == 2:  # lost on the way back
            replies.clear()
        for reply in reversed(replies):
            device.take(reply)
        if fault != 3:  # 3: everything arrives a second time
            replies.clear()
    ids = prompt
    while len(ids) < len(prompt) + limit:
        ids += bytes([target(ids)])
        if ids[-1] == END:
            break
    assert bytes(device.ids) == ids


def test_other_rows_under_the_same_length_are_asked_for_again() -> None:
    cloud = Tail()
    first = SplittingSession((1, 2, 3), max_new_tokens=4, key=KEY, end_ids={END})
    first.take(cloud.handle(first.open_frame(bytes((1, 2, 3)), 3)))
    other = SplittingSession((1, 7, 3), max_new_tokens=4, key=KEY, end_ids={END})
    other.cloud_len = 2
    frame = replace(other.open_frame(b"\x03", 1), round=9)
    assert cloud.handle(frame) == NeedPrefill(round=9, known_len=0)


def test_a_reply_that_cannot_be_is_an_error() -> None:
    for wrong in (
        Extended(round=1, len_after=4, num_accepted=0, next_id=1),
        NeedPrefill(round=1, known_len=1),
    ):
        session = SplittingSession((1, 2, 3), max_new_tokens=4, key=KEY, end_ids={END})
        session.open_frame(bytes(3), 3)
        with pytest.raises(FrameError, match="cloud"):
            session.take(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"ids": (1,)},
        {"activations": b""},
        {"num_positions": 2},
        {"row_hashes": (b"x",)},
        {"base_len": 64},
    ],
)
def test_a_hostile_frame_is_refused(change: dict[str, object]) -> None:
    session = SplittingSession((1,), max_new_tokens=4, key=KEY, end_ids={END})
    frame = session.open_frame(b"\x01", 1)
    frame.check_rows(max_positions=64)
    with pytest.raises(FrameError):
        replace(frame, **change).check_rows(max_positions=64)  # type: ignore[arg-type]
