"""A short rehearsal of ``benchmarks wire_canaries``: faults at every turn, and nothing identifying on the wire or at rest."""

from __future__ import annotations

from itertools import islice

from benchmarks._canaries import CanaryNote, canary_notes, leaks
from benchmarks.wire_canaries import rehearse
from tests.anonymizer_helpers import NoHead

HEADS = {"en": (NoHead(),), "pt": (NoHead(),), "zh": (NoHead(),)}


def test_no_canary_leaves_whatever_fails() -> None:
    tally = rehearse(HEADS, "rules", 240, seed=11, batch=15)
    assert (tally.leaks, tally.leaks_at_rest) == (0, 0)
    assert tally.requests == 240
    assert {"raises", "memory", "offsets", "hangs", "network away"} <= set(tally.faults)
    assert tally.routes["REFUSED"] > 0  # what could not be anonymised stayed
    assert tally.routes["CLOUD"] > 100
    assert tally.sent_bytes > 10_000  # the recording is not empty


def test_the_search_sees_a_canary_in_every_disguise() -> None:
    note = next(n for n in islice(canary_notes(seed=1), 50) if n.language == "en")
    value = note.values[0]
    disguises = (
        value,
        value.upper(),
        value[::-1],
        " ".join(value),
        "\u200b".join(value),
        value.encode().hex(),
        "".join(f"%{byte:02x}" for byte in value.encode()),
    )
    for disguise in disguises:
        assert leaks(f"x {disguise} y".encode(), [note]) == 1, disguise
    assert leaks(b"[PERSON_1] has no effusion", [note]) == 0
    assert leaks(b"", [CanaryNote("", ("Velkorbra",), "en")]) == 0
