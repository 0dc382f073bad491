"""A position of several sessions in one run: each gets what it gets alone, whoever comes, goes and is copied meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partition.errors import ContextLengthError, NeedPrefillError
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision, StageRange
from partition.weights.safetensors_folder import SafetensorsFolder
from tests.tiny_models import NUM_LAYERS, VOCAB_SIZE, write_tiny_model

CONTEXT = 48
NAMES = ("a", "b", "c", "d", "e")


@dataclass
class Pair:
    """One model twice: whole, and as two stages."""

    whole: OnnxStage
    first: OnnxStage
    second: OnnxStage
    is_exact: bool  # the same bits, or near them

    def assert_same(self, found: np.ndarray | None, expected: np.ndarray | None) -> None:
        assert found is not None
        assert expected is not None
        if self.is_exact:
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(
    scope="module",
    params=[
        ("llama", Precision.INT8, 2),
        ("gemma3", Precision.INT8, 1),  # with a window of a few positions
        ("qwen3", Precision.FLOAT32, 3),
    ],
    ids=lambda param: f"{param[0]}-{param[1].value}",
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    architecture, precision, cut = request.param
    folder = tmp_path_factory.mktemp("together")
    write_tiny_model(architecture, folder / "model")

    def open_stage(start: int, end: int) -> OnnxStage:
        return OnnxStage.open(
            SafetensorsFolder.open(folder / "model"),
            StageRange(start=start, end=end, num_layers=NUM_LAYERS),
            precision=precision,
            threads=1,
            context_tokens=CONTEXT,
            cache_dir=folder / "cache",
        )

    stages = [open_stage(0, NUM_LAYERS), open_stage(0, cut), open_stage(cut, NUM_LAYERS)]
    yield Pair(*stages, is_exact=precision is Precision.INT8)
    for stage in stages:
        stage.close()


tokens = st.integers(0, VOCAB_SIZE - 1)
names = st.sampled_from(NAMES)
steps = st.one_of(
    st.tuples(st.just("begin"), names, st.lists(tokens, min_size=1, max_size=5)),
    st.tuples(st.just("fork"), names, names),
    st.tuples(st.just("forget"), names),
    st.tuples(st.just("rewind"), names, st.integers(1, 4)),
    st.tuples(st.just("each"), st.sets(names, min_size=1), tokens),
    st.tuples(st.just("each"), st.just(set(NAMES)), tokens),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(told=st.lists(steps, min_size=4, max_size=16))
def test_each_gets_what_it_gets_alone(pair: Pair, told: list[tuple]) -> None:
    whole, first, second = pair.whole, pair.first, pair.second
    stages = (whole, first, second)
    lengths: dict[str, int] = {}

    def twin(name: str) -> str:  # gets the same ids, and is never run beside another
        return f"{name}, alone"

    for stage in stages:
        for name in NAMES:
            stage.forget(name)
            stage.forget(twin(name))
    for what, *arguments in told:
        who = arguments[0]
        if what == "begin":
            ids = np.array(arguments[1], np.int32)
            lengths[who] = len(ids)
            whole.extend(twin(who), ids, base_len=0)
            whole.extend(who, ids, base_len=0)
            second.extend(who, first.extend(who, ids, base_len=0).hidden, base_len=0)
        elif what == "fork" and who in lengths:
            to = arguments[1]
            lengths[to] = lengths[who]
            whole.fork(twin(who), twin(to), lengths[who])
            for stage in stages:
                stage.fork(who, to, lengths[who])
        elif what == "forget":
            lengths.pop(who, None)
            whole.forget(twin(who))
            for stage in stages:
                stage.forget(who)
        elif what == "rewind" and who in lengths:
            lengths[who] = min(lengths[who], arguments[1])
            for stage, name in ((whole, twin(who)), *((stage, who) for stage in stages)):
                stage.rewind(name, lengths[who])
        elif what == "each" and (sessions := [one for one in lengths if one in who]):
            new = ((arguments[1] + np.arange(len(sessions))) % VOCAB_SIZE).astype(np.int32)
            base_lens = [lengths[one] for one in sessions]
            found = whole.extend_each(sessions, new, base_lens=base_lens).logits
            hidden = first.extend_each(sessions, new, base_lens=base_lens).hidden
            parted = second.extend_each(sessions, hidden, base_lens=base_lens).logits
            assert found is not None
            np.testing.assert_array_equal(parted, found)
            for at, one in enumerate(sessions):
                expected = whole.extend(twin(one), new[at : at + 1], base_len=lengths[one]).logits
                assert expected is not None
                pair.assert_same(found[at], expected[0])
                lengths[one] += 1
        assert {one: whole.length(one) for one in NAMES} == {
            one: lengths.get(one, 0) for one in NAMES
        }


def test_what_cannot_be_done_is_refused_and_changes_nothing(pair: Pair) -> None:
    whole = pair.whole
    for name, count in (("a", 2), ("b", 3)):
        whole.extend(name, np.arange(count, dtype=np.int32), base_len=0)
    new = np.array([1, 2], np.int32)
    with pytest.raises(ValueError, match="no second one"):
        whole.extend_each(["a", "a"], new, base_lens=[2, 2])
    with pytest.raises(ValueError, match="cached one before"):
        whole.extend_each(["a", "b"], new, base_lens=[0, 3])
    with pytest.raises(NeedPrefillError, match="send the prompt again"):
        whole.extend_each(["a", "b"], new, base_lens=[1, 4])
    with pytest.raises(ContextLengthError, match="shorten the input"):
        whole.extend_each(["a", "b"], new, base_lens=[2, CONTEXT])
    with pytest.raises(NeedPrefillError, match="send the prompt again"):
        whole.fork("a", "c", 3)
    assert [whole.length(name) for name in "abc"] == [2, 3, 0]
    for name in "ab":
        whole.forget(name)
