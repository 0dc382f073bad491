"""SPLIT on the device against a tail in memory: the whole model's text for every cut, and the endings."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.extend.split import SplitEnding, SplitResult, SplitRun
from partition.extend.activations import Codec, row_bytes
from partition.extend.split import SplittingSession
from partition.generation.sampling import SamplingRule, choose
from tests.frame_simulator import Faults, SimulatedFrames, TailServer
from tests.numpy_stage import VOCABULARY, WIDTH, NumpyStage
from tests.simulators import Clock

END = 3
GREEDY = SamplingRule()
SEEDED = SamplingRule(temperature=0.8, top_p=0.9, seed=4)


def prompt_of(seed: int) -> tuple[int, ...]:
    rng = np.random.default_rng(seed)
    return tuple(int(token) for token in rng.integers(4, VOCABULARY, rng.integers(1, 30)))


def whole(prompt: tuple[int, ...], rule: SamplingRule, limit: int) -> tuple[int, ...]:
    stage, ids, fresh = NumpyStage(0, 4), list(prompt), list(prompt)
    while len(ids) < len(prompt) + limit:
        logits = stage.extend(
            "a", np.asarray(fresh, np.int32), base_len=len(ids) - len(fresh)
        ).logits
        assert logits is not None
        ids.append(choose(logits[-1], rule, position=len(ids)))
        fresh = ids[-1:]
        if ids[-1] == END:
            break
    return tuple(ids[len(prompt) :])


def split(
    k: int,
    prompt: tuple[int, ...],
    rule: SamplingRule,
    *,
    codec: Codec = Codec.FLOAT32,
    limit: int = 20,
    chunk: int = 8,
    seed: int = 0,
    faults: Faults | None = None,
    edge_s: float = 0.0,
    cloud_s: float = 0.0,
    **channel_options: object,
) -> tuple[SplitResult, SimulatedFrames]:
    clock = Clock()
    tail = NumpyStage(k, 4, on_run=lambda count: clock.advance(cloud_s * count))
    server = TailServer(tail, rule, end_ids={END})
    channel = SimulatedFrames(
        server.handle,
        clock=clock,
        faults=faults,
        evict=server.evict,
        seed=seed,
        **channel_options,  # type: ignore[arg-type]
    )
    session = SplittingSession(prompt, max_new_tokens=limit, key=bytes(32), end_ids={END})
    edge = NumpyStage(0, k, on_run=lambda count: clock.advance(edge_s * count))
    streamed: list[int] = []
    result = SplitRun(
        session,
        edge,
        channel,
        codec=codec,
        clock=clock,
        name="answer",
        chunk_tokens=chunk,
        on_ids=streamed.extend,
    ).run()
    assert edge.length("answer") == 0
    assert tuple(streamed) == result.ids
    return result, channel


@pytest.mark.parametrize("rule", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_two_halves_are_the_whole_for_200_prompts_over_a_bad_link(rule: SamplingRule) -> None:
    faults = Faults(lost=0.02, twice=0.1, late=0.1, evicted=0.01)
    num_complete = 0
    for seed in range(200):
        prompt = prompt_of(seed)
        result, _ = split(1 + seed % 3, prompt, rule, faults=faults, seed=seed, chunk=1 + seed % 9)
        expected = whole(prompt, rule, 20)
        assert result.ids == expected[: len(result.ids)], seed
        num_complete += result.ending is SplitEnding.COMPLETE
        assert (result.ids == expected) is (result.ending is SplitEnding.COMPLETE)
    assert num_complete > 150


@pytest.mark.parametrize("codec", list(Codec))
def test_bytes_are_those_of_the_codec(codec: Codec) -> None:
    prompt = prompt_of(1)
    result, _ = split(2, prompt, GREEDY, codec=codec)
    positions = len(prompt) + len(result.ids) - 1
    assert result.activation_bytes == positions * row_bytes(codec, WIDTH) + 12 * result.num_frames


def test_a_quantised_row_seldom_changes_a_token() -> None:
    same = total = 0
    for seed in range(40):
        prompt = prompt_of(seed)
        result, _ = split(2, prompt, GREEDY, codec=Codec.INT8, limit=1)
        same += result.ids == whole(prompt, GREEDY, 1)
        total += 1
    assert same >= 0.97 * total


def test_chunks_overlap_compute_with_the_other_side() -> None:
    prompt = tuple(range(4, 44))
    times = {}
    for chunk in (8, 40):
        result, _ = split(
            2, prompt, GREEDY, chunk=chunk, limit=1, edge_s=0.01, cloud_s=0.01, trip_s=0.0
        )
        times[chunk] = result.first_token_s
    assert times[40] == pytest.approx(0.8)
    assert times[8] == pytest.approx(0.48)  # the first chunk here, then all of it there


def test_a_cloud_that_is_gone_keeps_what_is_there() -> None:
    result, channel = split(2, prompt_of(1), SEEDED, gone_after=6, chunk=64)
    assert result.ending is SplitEnding.LOST
    assert result.ids == whole(prompt_of(1), SEEDED, 20)[: len(result.ids)]
    assert channel.num_sent == 7


def test_a_mismatch_is_named() -> None:
    result, _ = split(2, prompt_of(1), GREEDY, mismatch="fingerprint")
    assert (result.ending, result.mismatch) == (SplitEnding.MISMATCH, "fingerprint")


def test_a_session_lost_again_and_again_ends() -> None:
    result, _ = split(2, prompt_of(1), GREEDY, faults=Faults(evicted=1.0), chunk=4)
    assert result.ending is SplitEnding.LOST
