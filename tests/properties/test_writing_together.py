"""Answers written in a batch are those written alone, whoever comes, ends or gives up beside them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partition.generation.generation import Generator
from partition.generation.sampling import SamplingRule
from partition.generation.writing import Assignment, Generation, Writing
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision
from partition.text.tokenizer import Tokenizer
from partition.weights.safetensors_folder import SafetensorsFolder
from tests.tiny_models import make_folder

CONTEXT = 64
MAX_BATCH = 4
FIXED = [7, 30, 51, 8, 90, 12, 44, 3, 61, 19, 25, 70, 33, 5, 88, 2, 57, 14]  # as a task's beginning


def cache_what_is_fixed(generator: Generator) -> None:
    """Have that cached and nothing that was asked before: how much of a prompt is run changes the last bits."""
    for ids in ([1, 1, 1], [2, 2, 2], [*FIXED, 1]):
        generator.prefill(ids)


@dataclass
class Two:
    """The same model twice: one writes in batches, one alone."""

    together: Generator
    alone: Generator
    is_exact: bool  # products of 8 bits are the same for any number of rows, those of floats nearly

    def assert_same(self, found: Generation, alone: Generation) -> None:
        if self.is_exact:
            assert found == alone  # log-probabilities too, to the last bit
        else:
            assert replace(found, log_probabilities=()) == replace(alone, log_probabilities=())
            assert found.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-4)

    def write_alone(self, assignment: Assignment) -> Generation:
        self.alone.prefill(
            [*FIXED, 1]
        )  # as much of the prompt is cached as for a member of the batch
        prefill = self.alone.prefill(assignment.ids)
        assert prefill.num_cached_tokens == len(FIXED)
        return self.alone.generate(
            prefill,
            rule=assignment.rule,
            max_new_tokens=assignment.max_new_tokens,
            stops=assignment.stops,
        )


@pytest.fixture(scope="module", params=list(Precision), ids=lambda one: one.value)
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("writing")
    make_folder(folder / "model", can_end=True, head_dim=16)

    def generator(stage: OnnxStage, max_batch: int) -> Generator:
        return Generator(
            stage,
            Tokenizer.open(folder / "model"),
            context_tokens=CONTEXT,
            num_sessions=2,
            max_batch=max_batch,
        )

    stages = [_open(folder, request.param) for _ in range(2)]
    yield Two(
        generator(stages[0], MAX_BATCH),
        generator(stages[1], 1),
        is_exact=request.param is Precision.INT8,
    )
    for stage in stages:
        stage.close()


def _open(folder: Path, precision: Precision) -> OnnxStage:
    return OnnxStage.open(
        SafetensorsFolder.open(folder / "model"),
        precision=precision,
        threads=1,
        context_tokens=CONTEXT,
        cache_dir=folder / "cache",
    )


rules = st.builds(
    SamplingRule,
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 20]),
    seed=st.integers(0, 3),
)
assignments = st.builds(
    Assignment,
    # The first id parts them, so that no two share more than what is fixed.
    ids=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    rule=rules,
    max_new_tokens=st.integers(0, 40),
    stops=st.lists(st.sampled_from(["a", "zz", "é", "A", "0"]), max_size=2),
)


def with_prompts(drawn: list[Assignment]) -> list[Assignment]:
    return [replace(one, ids=[*FIXED, 20 + at, *one.ids]) for at, one in enumerate(drawn)]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(drawn=st.lists(assignments, min_size=1, max_size=6))
def test_a_batch_writes_what_each_writes_alone(two: Two, drawn: list[Assignment]) -> None:
    told = with_prompts(drawn)
    cache_what_is_fixed(two.together)
    shown: list[list[str]] = [[] for _ in told]
    streamed = [
        replace(one, on_text=pieces.append) for one, pieces in zip(told, shown, strict=True)
    ]
    for one, pieces, found in zip(told, shown, two.together.write_many(streamed), strict=True):
        two.assert_same(found, two.write_alone(one))
        assert "".join(pieces) == found.text


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    drawn=st.lists(assignments, min_size=2, max_size=MAX_BATCH + 2),
    arrivals=st.lists(st.integers(0, 6), min_size=MAX_BATCH + 2, max_size=MAX_BATCH + 2),
    cancelled=st.dictionaries(st.integers(0, MAX_BATCH + 1), st.integers(0, 8), max_size=3),
    left_out=st.sets(st.integers(0, 30), max_size=8),
)
def test_who_comes_goes_or_pauses_changes_nobody_elses_answer(
    two: Two,
    drawn: list[Assignment],
    arrivals: list[int],
    cancelled: dict[int, int],
    left_out: set[int],
) -> None:
    generator = two.together
    cache_what_is_fixed(generator)
    events = [threading.Event() for _ in drawn]
    told = with_prompts(drawn)
    waiting = [(arrivals[at], at) for at in range(len(told))]
    writings: dict[int, Writing] = {}
    results: dict[int, Generation] = {}
    turn = 0
    while waiting or writings:
        for arrival, at in list(waiting):
            if arrival <= turn and len(writings) < MAX_BATCH:
                waiting.remove((arrival, at))
                writings[at] = generator.begin(replace(told[at], cancel=events[at]))
        for at, steps in cancelled.items():
            if at in writings and turn >= arrivals[at] + steps:
                events[at].set()
        # A reader may be slow: then its answer waits, and the others go on.
        paused = {at for at in writings if turn * 7 + at in left_out}
        generator.step([one for at, one in writings.items() if at not in paused])
        for at, writing in list(writings.items()):
            if writing.is_done:
                generator.end(writings.pop(at))
                results[at] = writing.result()
        turn += 1
    for at, one in enumerate(told):
        alone = two.write_alone(one)
        if at in cancelled and results[at].ids != alone.ids:
            assert results[at].truncated
            assert alone.ids[: len(results[at].ids)] == results[at].ids
            assert alone.text.startswith(results[at].text) or not results[at].text.isascii()
        else:
            two.assert_same(results[at], alone)
