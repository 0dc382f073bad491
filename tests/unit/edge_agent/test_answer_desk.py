"""Many callers of one model on a tiny folder model: together each gets what it gets alone, and nobody spoils another's answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.answer_desk import AnswerDesk
from edge_agent.cancellation import Cancellation
from edge_agent.errors import RequestStoppedError
from edge_agent.flow import LocalAnswer
from edge_agent.local_model import LocalModel
from edge_agent.locked_stage import ModelClosedError
from partition.errors import ContextLengthError, MemoryLimitError
from partition.generation.generation import Generator
from partition.generation.sampling import SamplingRule
from partition.generation.writing import Assignment
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision
from partition.task import Task, TaskKind
from partition.text.tokenizer import Tokenizer
from partition.weights.safetensors_folder import SafetensorsFolder
from tests.local_answers import ask
from tests.tiny_models import make_folder

SORT = Task(name="sort", kind=TaskKind.CLASSIFY, labels=("no change", "no", "worse"))
WRITE = Task(name="write", kind=TaskKind.GENERATE)
CONTEXT = 200
PATIENCE_S = 120.0  # a machine may stand still for a while


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("desk") / "model", head_dim=16)


def open_model(folder: Path, *, max_batch: int = 4, max_memory_mb: int | None = None) -> LocalModel:
    return LocalModel.open(
        folder,
        threads=1,
        max_memory_mb=max_memory_mb,
        context_tokens=CONTEXT,
        cache_dir=folder.parent / "cache",
        max_batch=max_batch,
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[LocalModel]:
    model = open_model(folder)
    yield model
    model.close()


@pytest.fixture(scope="module")
def alone(folder: Path) -> Iterator[LocalModel]:
    model = open_model(folder, max_batch=1)
    yield model
    model.close()


def same(answer: LocalAnswer) -> LocalAnswer:
    """What may not depend on company: all but how much of the prompt happened to be cached, and the last digits that hang on it."""
    return replace(
        answer,
        num_cached_tokens=0,
        first_entropy=0.0,
        hidden=(),
        token_log_probabilities=(),
        label_scores=(),
    )


questions = st.tuples(
    st.sampled_from([SORT, WRITE, WRITE]),
    st.text("abc é", min_size=1, max_size=20),
    st.fixed_dictionaries(
        {
            "max_output_tokens": st.integers(1, 30),
            "temperature": st.sampled_from([0.0, 1.0]),
            "seed": st.integers(0, 3),
            "stop": st.sampled_from([(), ("a",), ("e", "0")]),
        }
    ),
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asked=st.lists(questions, min_size=2, max_size=10))
def test_callers_at_once_get_what_each_gets_alone(
    model: LocalModel, alone: LocalModel, asked: list
) -> None:
    with ThreadPoolExecutor(len(asked)) as pool:
        futures = [pool.submit(ask, model, task, text, **how) for task, text, how in asked]
        found = [future.result(PATIENCE_S) for future in futures]
    for (task, text, how), answer in zip(asked, found, strict=True):
        expected = ask(alone, task, text, **how)
        assert same(answer) == same(expected)
        assert answer.token_log_probabilities == pytest.approx(
            expected.token_log_probabilities, abs=0.05
        )


class CountedLock:
    """A lock that knows how often it was taken: once for each run of the model, and once at each answer's end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0

    def __enter__(self) -> None:
        self.lock.acquire()
        self.count += 1

    def __exit__(self, *exception: object) -> None:
        self.lock.release()


@pytest.mark.parametrize(("max_batch", "most"), [(1, 4 * 62), (4, 80)])
def test_answers_are_written_together(folder: Path, max_batch: int, most: int) -> None:
    stage = OnnxStage.open(
        SafetensorsFolder.open(folder),
        precision=Precision.INT8,
        threads=1,
        context_tokens=CONTEXT,
        cache_dir=folder.parent / "cache",
    )
    generator = Generator(
        stage,
        Tokenizer.open(folder),
        context_tokens=CONTEXT,
        num_sessions=2,
        max_batch=max_batch,
    )
    lock = CountedLock()
    desk = AnswerDesk(generator, lock, max_batch=max_batch)
    prompts = [[index, 40, 41, 42] for index in range(30, 34)]

    def write(ids: list[int]) -> tuple[int, ...]:
        assignment = Assignment(ids=ids, rule=SamplingRule(), max_new_tokens=60)
        return desk.write(assignment)[1].ids

    with ThreadPoolExecutor(4) as pool:
        with lock.lock:  # until all have come
            futures = [pool.submit(write, ids) for ids in prompts]
            while desk.num_waiting < 3:
                time.sleep(0.001)
        found = [future.result(PATIENCE_S) for future in futures]
    desk.close()
    assert [len(ids) for ids in found] == [60] * 4
    # A prompt and 59 tokens behind the first each, four ends: 244 takings alone.
    assert lock.count <= most
    assert (lock.count > 200) == (max_batch == 1)
    for ids, answer in zip(prompts, found, strict=True):
        generator.prefill([5, 6])
        prefill = generator.prefill(ids)
        assert generator.generate(prefill, rule=SamplingRule(), max_new_tokens=60).ids == answer
    stage.close()


def test_a_reader_who_takes_nothing_keeps_nobody_waiting(model: LocalModel) -> None:
    goes_on = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(
            ask,
            model,
            WRITE,
            "a",
            max_output_tokens=150,
            on_text=lambda _: goes_on.wait(PATIENCE_S),
        )
        for text in ("b", "c"):
            assert ask(model, WRITE, text, max_output_tokens=150).num_output_tokens == 150
            assert ask(model, SORT, text).text in SORT.labels
        assert not slow.done()
        goes_on.set()
        assert slow.result(PATIENCE_S).num_output_tokens == 150


def test_a_reader_who_fails_ends_its_own_answer_only(model: LocalModel) -> None:
    def fails(_: str) -> None:
        raise RequestStoppedError("the caller hung up")

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(ask, model, WRITE, "b", max_output_tokens=100)
        with pytest.raises(RequestStoppedError, match="hung up"):
            ask(model, WRITE, "a", max_output_tokens=100, on_text=fails)
        assert other.result(PATIENCE_S).num_output_tokens == 100


def test_who_gives_up_gets_what_there_is_and_the_others_all(model: LocalModel) -> None:
    cancel = Cancellation()
    pieces: list[str] = []

    def stops(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 2:
            cancel.set()

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(ask, model, WRITE, "b", max_output_tokens=150)
        # With many pieces ahead of it the reader may be late; the answer waits for it then.
        stopped = ask(model, WRITE, "a", max_output_tokens=180, on_text=stops, cancel=cancel)
        assert stopped.num_output_tokens < 180
        assert stopped.truncated
        assert other.result(PATIENCE_S).num_output_tokens == 150
    with pytest.raises(RequestStoppedError):
        ask(model, WRITE, "a", cancel=cancel)


def test_who_is_refused_costs_the_others_nothing(model: LocalModel) -> None:
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(ask, model, WRITE, "b", max_output_tokens=100)
        with pytest.raises(ContextLengthError, match="shorten the input"):
            ask(model, WRITE, "a" * CONTEXT)
        assert other.result(PATIENCE_S).num_output_tokens == 100


def test_closing_waits_for_answers_and_refuses_new_ones(folder: Path) -> None:
    model = open_model(folder)
    began = threading.Event()

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(
            ask, model, WRITE, "a", max_output_tokens=150, on_text=lambda _: began.set()
        )
        assert began.wait(PATIENCE_S)
        model.close()
        assert written.result(PATIENCE_S).num_output_tokens == 150
    with pytest.raises(ModelClosedError, match="ask again"):
        ask(model, WRITE, "a")
    with pytest.raises(ModelClosedError, match="ask again"):
        ask(model, SORT, "a")


def test_no_thread_stays_when_there_is_nothing_to_do(model: LocalModel) -> None:
    ask(model, WRITE, "a", max_output_tokens=2)
    end = time.monotonic() + PATIENCE_S
    while any(thread.name == "tandem-model" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_memory_for_fewer_answers_means_fewer_at_once(folder: Path) -> None:
    cache_bytes = SafetensorsFolder.open(folder).spec.kv_bytes_per_token(4, 4) * 4096
    assert cache_bytes > 1 << 20

    def num_sessions(max_memory_bytes: int | None) -> int:
        stage = OnnxStage.open(
            SafetensorsFolder.open(folder),
            precision=Precision.INT8,
            threads=1,
            context_tokens=4096,
            cache_dir=folder.parent / "cache",
            max_memory_bytes=max_memory_bytes,
            num_sessions=2,
            max_sessions=9,
        )
        stage.close()
        return stage.num_sessions

    assert num_sessions(None) == 9
    least = 64 << 20
    while True:
        try:
            found = num_sessions(least)
            break
        except MemoryLimitError:
            least += 1 << 20
    assert found == 2
    assert num_sessions(least + 3 * cache_bytes) == 5
    assert num_sessions(least + 99 * cache_bytes) == 9
    limited = open_model(folder, max_batch=64, max_memory_mb=(least >> 20) + 1)
    assert 1 <= limited.max_batch <= 64
    limited.close()
