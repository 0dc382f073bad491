"""The batching engine: what it says of a request does not depend on who else is there."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from cloud_service.engine.batching import BatchingEngine, EngineLimits
from cloud_service.engine.job import Job, JobEnd, JobOutcome
from cloud_service.engine.sequence import Owner, Rows, Sequence
from cloud_service.engine.serial import SerialEngine
from partition.generation.sampling import SamplingRule
from tests.tiny_models import make_folder

KV_BLOCK_BYTES = 4 * 2 * 16 * 2 * 8 * 4  # layers, key and value, positions, heads, width, float32
VOCABULARY = 250


@dataclass
class Listener:
    """Collects; may hang up after some tokens."""

    hang_up_after: int | None = None
    tokens: list[int] = field(default_factory=list)
    outcome: JobOutcome | None = None
    job: Job | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def on_token(self, token_id: int) -> bool:
        self.tokens.append(token_id)
        if self.hang_up_after is not None and len(self.tokens) >= self.hang_up_after:
            assert self.job is not None
            self.job.cancel()
        return False

    def on_end(self, outcome: JobOutcome) -> None:
        assert self.outcome is None
        self.outcome = outcome
        self.ended.set()


def make_job(prompt: tuple[int, ...], **fields: Any) -> Job:
    listener = fields.pop("listener", None) or Listener()
    values: dict[str, Any] = {
        "tenant": "a",
        "max_output_tokens": 8,
        "sampling": SamplingRule(),
        "end_ids": frozenset(),
        "deadline_s": float("inf"),
        **fields,
    }
    job = Job(prompt_ids=prompt, listener=listener, **values)
    listener.job = job
    return job


def listener_of(job: Job) -> Listener:
    assert isinstance(job.listener, Listener)
    assert job.listener.ended.wait(60)
    return job.listener


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"), architecture=request.param)


@pytest.fixture(scope="module")
def serial(folder: Path) -> Iterator[SerialEngine]:
    engine = SerialEngine(load(folder), max_waiting=1000, threads=1)
    yield engine
    engine.close()


class Arrivals:
    """What comes while a layer of a step is computed, one a layer: the module calls this on the engine's thread."""

    def __init__(self, module: Any) -> None:
        self.due: list[Callable[[], object]] = []
        for layer in module.model.layers:
            layer.register_forward_pre_hook(self._on_layer)

    def _on_layer(self, module: Any, arguments: Any) -> None:
        if self.due:
            self.due.pop(0)()


@pytest.fixture(scope="module")
def module(folder: Path) -> Any:
    return load(folder)


@pytest.fixture(scope="module")
def arrivals(module: Any) -> Arrivals:
    return Arrivals(module)


@pytest.fixture(scope="module")
def batching(module: Any) -> Iterator[BatchingEngine]:
    """So little memory that sequences push each other out all the time."""
    limits = EngineLimits(
        max_waiting=1000, max_sequences=6, step_tokens=24, kv_bytes=24 * KV_BLOCK_BYTES, threads=1
    )
    engine = BatchingEngine(module, limits)
    yield engine
    engine.close()
    engine.check_integrity()
    assert engine.kv_usage == 0


TOKENS = st.integers(0, VOCABULARY - 1)
PROMPTS = st.builds(
    # Prompts that share a beginning, so that the prefix cache has work.
    lambda shared, rest: tuple([7, 3] * 20)[:shared] + tuple(rest),
    st.sampled_from([0, 15, 16, 17, 40]),
    st.lists(TOKENS, min_size=1, max_size=60),
)
SAMPLING = st.one_of(
    st.just(SamplingRule()),
    st.builds(
        SamplingRule,
        temperature=st.sampled_from([0.5, 1.0]),
        top_k=st.sampled_from([0, 5]),
        top_p=st.sampled_from([0.8, 1.0]),
        seed=st.integers(0, 2**64 - 1),
    ),
)
REQUESTS = st.fixed_dictionaries(
    {
        "prompt": PROMPTS,
        "tenant": st.sampled_from(["a", "b"]),
        "sampling": SAMPLING,
        "max_output_tokens": st.integers(1, 40),
        "labels": st.one_of(
            st.just(()),
            st.lists(
                st.lists(TOKENS, min_size=1, max_size=20).map(tuple), min_size=1, max_size=4
            ).map(tuple),
        ),
        "hang_up_after": st.one_of(st.none(), st.none(), st.integers(1, 10)),
        # Layers of steps between the one before it and this; None: it is there from the beginning.
        "layers_later": st.one_of(st.none(), st.integers(0, 9)),
    }
)


def submit(engine: Any, request: dict[str, Any], *, patient: bool = False) -> Job:
    fields = {key: value for key, value in request.items() if key != "layers_later"}
    hang_up_after = fields.pop("hang_up_after")
    listener = Listener(hang_up_after=None if patient else hang_up_after)
    job = make_job(fields.pop("prompt"), listener=listener, **fields)
    engine.submit(job)
    return job


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(REQUESTS, min_size=1, max_size=12))
def test_a_batch_equals_each_of_its_members_alone(
    batching: BatchingEngine,
    arrivals: Arrivals,
    serial: SerialEngine,
    requests: list[dict[str, Any]],
) -> None:
    jobs: dict[int, Job] = {}

    def come(at: int) -> None:
        jobs[at] = submit(batching, requests[at])

    due: list[Callable[[], object]] = []
    for at, request in enumerate(requests):
        if request["layers_later"] is not None:
            due += [lambda: None] * request["layers_later"] + [functools.partial(come, at)]
    arrivals.due = due
    for at, request in enumerate(requests):
        if request["layers_later"] is None:
            come(at)
    while arrivals.due:  # some of them may come when there is nothing else
        listener_of(submitted(batching, make_job((1,), tenant="c")))
    for at, request in enumerate(requests):
        result = listener_of(jobs[at])
        alone = listener_of(submit(serial, request, patient=True))
        assert result.outcome is not None
        assert alone.outcome is not None
        if result.outcome.end is JobEnd.CANCELLED:
            assert result.tokens == alone.tokens[: len(result.tokens)]
            assert len(result.tokens) <= request["hang_up_after"] + 1
        else:
            assert result.tokens == alone.tokens
            assert result.outcome.end is alone.outcome.end
            scores = alone.outcome.label_log_probabilities
            assert result.outcome.label_log_probabilities == pytest.approx(scores, abs=1e-3)


def test_sequences_that_push_each_other_out_say_the_same(
    batching: BatchingEngine, serial: SerialEngine
) -> None:
    before = batching.num_preemptions
    requests = [
        {"prompt": (at,) * 20, "max_output_tokens": 100, "hang_up_after": None} for at in range(6)
    ]
    together = [submit(batching, request) for request in requests]
    for request, job in zip(requests, together, strict=True):
        assert listener_of(job).tokens == listener_of(submit(serial, request)).tokens
    assert batching.num_preemptions > before


def test_a_second_prompt_finds_the_first_ones_blocks(folder: Path) -> None:
    engine = BatchingEngine(load(folder), EngineLimits(kv_bytes=64 * KV_BLOCK_BYTES, threads=1))
    prompt = tuple(range(50))
    first = listener_of(submitted(engine, make_job(prompt)))
    again = listener_of(submitted(engine, make_job(prompt)))
    assert first.outcome is not None
    assert again.outcome is not None
    assert first.outcome.cached_tokens == 0
    assert again.outcome.cached_tokens == 48
    assert again.tokens == first.tokens
    stranger = listener_of(submitted(engine, make_job(prompt, tenant="b")))
    assert stranger.outcome is not None
    assert stranger.outcome.cached_tokens == 0  # timing must not tell what another tenant asked
    assert stranger.tokens == first.tokens
    engine.close()
    engine.check_integrity()


def submitted(engine: BatchingEngine, job: Job) -> Job:
    engine.submit(job)
    return job


def test_a_resumed_answer_is_the_same(folder: Path) -> None:
    engine = BatchingEngine(load(folder), EngineLimits(kv_bytes=64 * KV_BLOCK_BYTES, threads=1))
    rule = SamplingRule(temperature=1.0, seed=5)
    whole = listener_of(
        submitted(engine, make_job((1, 2, 3), sampling=rule, max_output_tokens=20))
    ).tokens
    for cut in (1, 7, 19, 20):
        job = make_job(
            (1, 2, 3), sampling=rule, max_output_tokens=20, answer_ids=tuple(whole[:cut])
        )
        assert whole[:cut] + listener_of(submitted(engine, job)).tokens == whole
    engine.close()


def test_a_flooding_tenant_does_not_hold_up_another(folder: Path) -> None:
    limits = EngineLimits(max_sequences=8, step_tokens=32, kv_bytes=400 * KV_BLOCK_BYTES, threads=1)
    engine = BatchingEngine(load(folder), limits)
    flood = [make_job((at,) * 100, tenant="flood", max_output_tokens=100) for at in range(60)]
    for job in flood:
        engine.submit(job)
    quiet = make_job((1, 2, 3), tenant="quiet", max_output_tokens=5)
    engine.submit(quiet)
    listener_of(quiet)
    num_finished = sum(
        1 for job in flood if isinstance(job.listener, Listener) and job.listener.outcome
    )
    assert num_finished == 0
    engine.close()
    outcomes = [listener_of(job).outcome for job in flood]
    assert {outcome.end for outcome in outcomes if outcome} <= {JobEnd.CLOSED, JobEnd.LENGTH}


def test_a_prompt_of_another_tenant_does_not_wait_for_the_step_that_runs(folder: Path) -> None:
    module = load(folder)
    arrivals, said = Arrivals(module), []
    engine = BatchingEngine(
        module, EngineLimits(step_tokens=32, kv_bytes=400 * KV_BLOCK_BYTES, threads=1)
    )

    class Hearing(Listener):
        def on_token(self, token_id: int) -> bool:
            assert self.job is not None
            said.append(self.job.tenant)
            return super().on_token(token_id)

    num_layers = len(module.model.layers)
    flood = [
        make_job((at,) * 20, tenant="flood", max_output_tokens=60, listener=Hearing())
        for at in range(3)
    ]
    quiet = make_job(tuple(range(50)), tenant="quiet", max_output_tokens=5, listener=Hearing())
    before: list[int] = []

    def come() -> None:
        before.append(len(said))
        engine.submit(quiet)

    engine.call(lambda: setattr(arrivals, "due", [lambda: None] * (30 * num_layers + 1) + [come]))
    for job in flood:
        engine.submit(job)
    results = [listener_of(job).tokens for job in (*flood, quiet)]
    # Its prompt takes two steps; both are inserted into the one that it met in its second layer.
    assert said[before[0]] == "quiet"
    assert 0 < before[0] < len(said) - 10
    engine.close()
    engine.check_integrity()
    alone = BatchingEngine(load(folder), EngineLimits(kv_bytes=400 * KV_BLOCK_BYTES, threads=1))
    for job, tokens in zip((*flood, quiet), results, strict=True):
        again = make_job(job.prompt_ids, max_output_tokens=job.max_output_tokens)
        assert listener_of(submitted(alone, again)).tokens == tokens
    alone.close()


def test_what_a_step_computes_is_not_changed_in_its_middle(folder: Path) -> None:
    module = load(folder)
    arrivals = Arrivals(module)
    engine = BatchingEngine(module, EngineLimits(kv_bytes=64 * KV_BLOCK_BYTES, threads=1))
    seen: list[tuple[str, bool]] = []
    done = threading.Event()

    class Parks:
        """Has one row computed, then keeps its place."""

        reads_logits = False

        def on_rows(self, rows: Rows) -> None:
            return None

        def on_end(self, end: JobEnd) -> None:
            done.set()

    owner = Owner(tenant="a", deadline_s=float("inf"), arrived_s=0.0)
    sequences: list[Sequence] = []

    def look(what: str) -> None:
        seen.append((what, sequences[0].is_running))

    def come() -> None:
        engine.call(lambda: look("another's"))
        engine.call(lambda: look("its own"), lambda: sequences[0])
        engine.call(lambda: look("later"))  # in order of arrival, whatever it is for
        engine.call(lambda: setattr(owner, "is_wanted", False))

    arrivals.due = [lambda: None, come]
    engine.call(lambda: sequences.append(engine.add_sequence(owner, Parks(), (1, 2, 3), 1)))
    assert done.wait(60)
    assert seen == [("another's", True), ("its own", False), ("later", False)]
    engine.close()


def test_a_passed_deadline_ends_waiting_and_running_jobs(folder: Path) -> None:
    engine = BatchingEngine(load(folder), EngineLimits(kv_bytes=64 * KV_BLOCK_BYTES, threads=1))
    late = listener_of(submitted(engine, make_job((1, 2), deadline_s=0.0)))
    assert late.outcome is not None
    assert late.outcome.end is JobEnd.DEADLINE
    engine.close()


def test_a_job_larger_than_memory_fails_and_the_engine_goes_on(folder: Path) -> None:
    engine = BatchingEngine(load(folder), EngineLimits(kv_bytes=4 * KV_BLOCK_BYTES, threads=1))
    huge = listener_of(submitted(engine, make_job((1,) * 60)))
    assert huge.outcome is not None
    assert huge.outcome.end is JobEnd.FAILED
    assert len(listener_of(submitted(engine, make_job((1,) * 50))).tokens) == 8
    engine.close()
    engine.check_integrity()


@pytest.mark.gpu
def test_on_an_accelerator_a_batch_equals_each_of_its_members_alone(folder: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator is seen")
    requests = [
        {
            "prompt": tuple((7 * at + step) % VOCABULARY for step in range(10 + 9 * at)),
            "max_output_tokens": 30,
            "hang_up_after": None,
            "sampling": SamplingRule(temperature=float(at % 2), seed=at),
            "labels": ((1, 2), (3,)) if at % 3 == 2 else (),
        }
        for at in range(12)
    ]
    engine = BatchingEngine(load(folder).to("cuda"), EngineLimits(kv_bytes=400 * KV_BLOCK_BYTES))
    alone = SerialEngine(load(folder).to("cuda"), max_waiting=100, threads=1)
    together = [submit(engine, request) for request in requests]
    for request, job in zip(requests, together, strict=True):
        assert listener_of(job).tokens == listener_of(submit(alone, request)).tokens
    alone.close()
    engine.close()
    engine.check_integrity()
