"""Stages on ONNX Runtime against transformers, and every split against the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partition.errors import ContextLengthError, MemoryLimitError, NeedPrefillError
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision, StageRange
from partition.weights.safetensors_folder import SafetensorsFolder
from tests.tiny_models import ARCHITECTURES, NUM_LAYERS, VOCAB_SIZE, write_tiny_model

CONTEXT = 96
IDS = np.random.default_rng(5).integers(0, VOCAB_SIZE, 40).astype(np.int32)


@dataclass
class Tiny:
    """A tiny model as transformers runs it, and all its stages."""

    folder: Path
    cache_dir: Path
    reference: Any
    opened: dict[tuple[int, int, Precision], OnnxStage] = field(default_factory=dict)

    def open(
        self, start: int = 0, end: int = NUM_LAYERS, precision: Precision = Precision.FLOAT32
    ) -> OnnxStage:
        return OnnxStage.open(
            SafetensorsFolder.open(self.folder),
            StageRange(start=start, end=end, num_layers=NUM_LAYERS),
            precision=precision,
            threads=1,
            context_tokens=CONTEXT,
            cache_dir=self.cache_dir,
        )

    def stage(self, start: int, end: int, precision: Precision) -> OnnxStage:
        """A stage that is opened once, for tests that ask for many."""
        key = (start, end, precision)
        if key not in self.opened:
            self.opened[key] = self.open(start, end, precision)
        return self.opened[key]

    def expected(self, ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.reference(torch.tensor(ids)[None].long()).logits[0].numpy()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp(request.param)
    model = write_tiny_model(request.param, root / "model")
    return Tiny(folder=root / "model", cache_dir=root / "cache", reference=model)


@pytest.fixture
def whole(tiny: Tiny) -> Iterator[OnnxStage]:
    stage = tiny.open()
    yield stage
    stage.close()


def all_rows(ids: np.ndarray) -> np.ndarray:
    return np.arange(len(ids))


def run_two(
    first: OnnxStage, second: OnnxStage, ids: np.ndarray, lengths: list[int], session: str = "s"
) -> np.ndarray:
    """Feed ids through two stages in pieces of the given lengths; logits of every position."""
    found, at = [], 0
    for length in lengths:
        piece = ids[at : at + length]
        hidden = first.extend(session, piece, base_len=at).hidden
        output = second.extend(session, hidden, base_len=at, rows=all_rows(piece))
        found.append(output.logits)
        at += length
    return np.concatenate(found)


def test_logits_are_those_of_transformers(tiny: Tiny, whole: OnnxStage) -> None:
    output = whole.extend("s", IDS, base_len=0, rows=all_rows(IDS))
    np.testing.assert_allclose(output.logits, tiny.expected(IDS), rtol=1e-4, atol=1e-4)


def test_token_by_token_and_in_pieces_equal_one_pass(tiny: Tiny, whole: OnnxStage) -> None:
    expected = tiny.expected(IDS)
    for lengths in ([1] * len(IDS), [17, 1, 22], [39, 1]):
        found, at = [], 0
        for length in lengths:
            piece = IDS[at : at + length]
            found.append(
                whole.extend(str(lengths), piece, base_len=at, rows=all_rows(piece)).logits
            )
            at += length
        np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", list(Precision))
def test_every_split_equals_the_whole(tiny: Tiny, precision: Precision) -> None:
    complete = tiny.open(precision=precision)
    expected = complete.extend("s", IDS, base_len=0, rows=all_rows(IDS)).logits
    steps = [complete.extend("steps", IDS[at : at + 1], base_len=at) for at in range(len(IDS))]
    whole_stepwise = np.concatenate([step.logits for step in steps])
    for k in range(1, NUM_LAYERS):
        first, second = tiny.open(0, k, precision), tiny.open(k, NUM_LAYERS, precision)
        found = run_two(first, second, IDS, [len(IDS)])
        # The same kernels on the same numbers: not one bit may differ.
        np.testing.assert_array_equal(found, expected)
        stepwise = run_two(first, second, IDS, [1] * len(IDS), session="steps")
        np.testing.assert_array_equal(stepwise, whole_stepwise)
        if precision is Precision.FLOAT32:
            np.testing.assert_allclose(stepwise, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", list(Precision))
def test_no_rows_give_no_logits(tiny: Tiny, precision: Precision) -> None:
    stage = tiny.open(precision=precision)
    output = stage.extend("s", IDS, base_len=0, rows=np.empty(0, np.int64))
    assert output.logits.shape == (0, VOCAB_SIZE)
    assert output.features.shape[0] == 0


def test_int8_stays_close_to_float(tiny: Tiny) -> None:
    stage = tiny.open(precision=Precision.INT8)
    logits = stage.extend("s", IDS, base_len=0, rows=all_rows(IDS)).logits
    expected = tiny.expected(IDS)
    assert np.abs(logits - expected).mean() < 0.1 * expected.std()


def test_features_are_the_residual_stream_before_the_last_norm(
    tiny: Tiny, whole: OnnxStage
) -> None:
    found: list[torch.Tensor] = []
    hook = tiny.reference.model.norm.register_forward_pre_hook(
        lambda _, args: found.append(args[0])
    )
    tiny.expected(IDS)
    hook.remove()
    features = whole.extend("s", IDS, base_len=0).features
    np.testing.assert_allclose(features[0], found[0][0, -1].numpy(), rtol=1e-3, atol=1e-4)


def test_rewind_takes_positions_back(tiny: Tiny, whole: OnnxStage) -> None:
    whole.extend("s", IDS, base_len=0)
    whole.rewind("s", 10)
    assert whole.length("s") == 10
    other = IDS[::-1].copy()[:6]
    logits = whole.extend("s", other, base_len=10).logits
    expected = tiny.expected(np.concatenate([IDS[:10], other]))[-1]
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-4)


def test_a_repeated_call_is_harmless(whole: OnnxStage) -> None:
    whole.extend("s", IDS[:20], base_len=0)
    once = whole.extend("s", IDS[20:], base_len=20).logits
    again = whole.extend("s", IDS[20:], base_len=20).logits
    np.testing.assert_array_equal(once, again)
    assert whole.length("s") == len(IDS)


def test_missing_positions_are_asked_for(whole: OnnxStage) -> None:
    with pytest.raises(NeedPrefillError, match="send the prompt again"):
        whole.extend("unknown", IDS, base_len=3)
    whole.extend("s", IDS, base_len=0)
    whole.forget("s")
    assert whole.length("s") == 0


def test_the_context_is_a_limit(whole: OnnxStage) -> None:
    with pytest.raises(ContextLengthError, match="context of 96"):
        whole.extend("s", np.zeros(CONTEXT + 1, np.int32), base_len=0)


def test_ids_outside_the_vocabulary_are_refused(whole: OnnxStage) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        whole.extend("s", np.array([VOCAB_SIZE], np.int32), base_len=0)


@st.composite
def batches(draw: st.DrawFn, limit: int) -> tuple[np.ndarray, list[int]]:
    """Ids of a common beginning and of ragged branches behind it, and the parent of each position of a branch."""
    beginning = draw(st.integers(1, 4))
    parents: list[int] = []
    for drawn in draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)):
        length = min(drawn, limit - beginning - len(parents))
        if length > 0:
            # A branch leaves the beginning, or any position of another branch.
            parents.append(draw(st.integers(-1, len(parents) - 1)))
            parents += range(len(parents) - 1, len(parents) + length - 2)
    count = beginning + len(parents)
    ids = draw(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=count, max_size=count))
    return np.array(ids, np.int32), parents


@pytest.mark.parametrize("precision", list(Precision))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_split_of_any_batch_equals_the_whole(
    tiny: Tiny, precision: Precision, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, NUM_LAYERS - 1))
    whole, first, second = (
        tiny.stage(start, end, precision)
        for start, end in ((0, NUM_LAYERS), (0, k), (k, NUM_LAYERS))
    )
    ids, parents = data.draw(batches(whole.max_branched_tokens))
    beginning = len(ids) - len(parents)
    # In pieces, the last of which is the batch.
    cuts = sorted(data.draw(st.sets(st.integers(1, beginning))) | {0, beginning})
    for start, end in pairwise(cuts):
        rows = all_rows(ids[start:end])
        expected = whole.extend("s", ids[start:end], base_len=start, rows=rows).logits
        hidden = first.extend("s", ids[start:end], base_len=start).hidden
        found = second.extend("s", hidden, base_len=start, rows=rows).logits
        # The same kernels on the same numbers: not one bit may differ.
        np.testing.assert_array_equal(found, expected)
    branches = {"base_len": beginning, "parents": parents}
    rows = np.arange(len(parents))
    expected = whole.extend_branches("s", ids[beginning:], rows=rows, **branches).logits
    hidden = first.extend_branches("s", ids[beginning:], **branches).hidden
    found = second.extend_branches("s", hidden, rows=rows, **branches).logits
    np.testing.assert_array_equal(found, expected)
    if precision is Precision.FLOAT32:
        for at in range(len(parents)):
            path = [at]
            while parents[path[0]] >= 0:
                path.insert(0, parents[path[0]])
            alone = tiny.expected(np.concatenate((ids[:beginning], ids[beginning:][path])))[-1]
            np.testing.assert_allclose(found[at], alone, rtol=1e-3, atol=1e-4)


def test_what_stays_cached_of_branches_is_the_first_path(tiny: Tiny, whole: OnnxStage) -> None:
    whole.extend("s", IDS[:3], base_len=0)
    whole.extend_branches("s", IDS[3:8], base_len=3, parents=[-1, 0, -1, 2, 1])
    assert whole.length("s") == 5
    logits = whole.extend("s", IDS[20:22], base_len=5).logits
    expected = tiny.expected(np.concatenate([IDS[:5], IDS[20:22]]))[-1]
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-4)


def test_impossible_branches_are_refused(whole: OnnxStage) -> None:
    with pytest.raises(ValueError, match="cached beginning"):
        whole.extend_branches("s", IDS[:2], base_len=0, parents=[-1, -1])
    whole.extend("s", IDS[:4], base_len=0)
    with pytest.raises(ValueError, match="follows a position before it"):
        whole.extend_branches("s", IDS[:2], base_len=4, parents=[-1, 1])
    with pytest.raises(ContextLengthError, match="run fewer at once"):
        whole.extend_branches("s", np.zeros(CONTEXT, np.int32), base_len=4, parents=[-1] * CONTEXT)


def test_too_little_memory_is_refused_before_loading(tiny: Tiny) -> None:
    with pytest.raises(MemoryLimitError, match="raise max_memory_mb"):
        OnnxStage.open(
            SafetensorsFolder.open(tiny.folder),
            precision=Precision.FLOAT32,
            threads=1,
            context_tokens=CONTEXT,
            cache_dir=tiny.cache_dir,
            max_memory_bytes=1 << 20,
        )


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 2), (3, 9)])
def test_impossible_ranges_are_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="start < end"):
        StageRange(start=start, end=end, num_layers=4)
