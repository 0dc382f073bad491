"""The local model on a tiny folder model: labels, streams, limits, threads."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from edge_agent.errors import RequestStoppedError
from edge_agent.flow import Request
from edge_agent.local_model import LocalModel, origin_of
from partition.errors import ContextLengthError, MemoryLimitError, ModelFileError
from partition.task import Message, Role, Task, TaskKind
from partition.text.tokenizer import Tokenizer
from tests.local_answers import ask
from tests.tiny_models import VOCAB_SIZE, write_tiny_model

SORT = Task(
    name="sort", kind=TaskKind.CLASSIFY, labels=("w4 w8", "w4 w9", "w23"), template="w1 {text} w2"
)
WRITE = Task(name="write", kind=TaskKind.GENERATE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "model"
    write_tiny_model("qwen2", folder)
    words = {f"w{index}": index for index in range(VOCAB_SIZE)}
    tokenizer = HFTokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def open_model(folder: Path, max_memory_mb: int | None = None) -> LocalModel:
    return LocalModel.open(
        folder,
        threads=1,
        max_memory_mb=max_memory_mb,
        context_tokens=100,
        cache_dir=folder.parent / "cache",
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[LocalModel]:
    model = open_model(folder)
    yield model
    model.close()


def test_every_label_is_scored_and_the_best_is_the_answer(model: LocalModel) -> None:
    answer = ask(model, SORT, "w7 w30 w12")
    scores = {score.label: score.log_probability for score in answer.label_scores}
    assert tuple(scores) == SORT.labels
    assert answer.text == max(scores, key=scores.__getitem__)
    assert math.isclose(sum(answer.token_log_probabilities), scores[answer.text])
    assert sum(math.exp(value) for value in scores.values()) <= 1
    assert answer.first_entropy > 0
    assert len(answer.hidden) == 64


def test_the_fixed_part_of_a_prompt_is_run_once(model: LocalModel) -> None:
    text = " ".join(f"w{index}" for index in range(30, 60))
    ask(model, SORT, text)
    assert ask(model, SORT, text + " w3").num_cached_tokens >= 30


def test_a_written_answer_streams_and_obeys_its_limit(model: LocalModel) -> None:
    pieces: list[str] = []
    answer = ask(model, WRITE, "w7 w8", max_output_tokens=5, on_text=pieces.append)
    assert answer.num_output_tokens == len(answer.token_log_probabilities) <= 5
    assert "".join(pieces) == answer.text
    assert not answer.label_scores


def test_threads_get_the_answers_they_would_get_alone(model: LocalModel) -> None:
    texts = [f"w{index} w{index + 1}" for index in range(10, 18)]
    alone = [ask(model, SORT, text).text for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: ask(model, SORT, text).text, texts))
    assert together == alone


def test_too_long_is_refused_and_the_model_lives_on(model: LocalModel) -> None:
    with pytest.raises(ContextLengthError, match="shorten the input"):
        ask(model, SORT, "w5 " * 200)
    assert ask(model, SORT, "w5").text in SORT.labels


def test_who_gave_up_gets_no_answer(model: LocalModel) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(RequestStoppedError):
        ask(model, SORT, "w5", cancel=cancel)


def test_one_file_one_fingerprint(folder: Path, model: LocalModel) -> None:
    again = open_model(folder)
    assert again.fingerprint == model.fingerprint
    again.close()
    again.close()


def test_too_little_memory_is_refused(folder: Path) -> None:
    with pytest.raises(MemoryLimitError, match="max_memory_mb"):
        open_model(folder, max_memory_mb=8)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 50)
    with pytest.raises(ModelFileError, match=r"broken\.gguf") as caught:
        open_model(path)
    assert "\n" not in str(caught.value)


def test_shared_model_is_freed_by_its_last_owner(folder: Path) -> None:
    shared = open_model(folder)
    assert shared.share() is shared
    shared.close()
    messages = SORT.render((Message(role=Role.USER, text="w3 w4"),))
    assert shared.answer(messages, SORT, Request(id="1", task="sort")).text in SORT.labels
    shared.close()
    assert not shared.shared_stage._is_open()


def test_same_files_under_another_name_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    def origin(path: Path, threads: int = 1) -> tuple[object, ...]:
        return origin_of(path, None, threads=threads, max_memory_mb=None, context_tokens=100)

    linked, copied = tmp_path / "linked", shutil.copytree(folder, tmp_path / "copied")
    shutil.copytree(folder, linked, copy_function=os.link)
    assert origin(linked) == origin(folder) != origin(copied)
    assert origin(folder, threads=2) != origin(folder)


def test_tokenizer_of_a_model_that_answers_is_taken_over_if_it_is_the_same(
    folder: Path, tmp_path: Path
) -> None:
    first = Tokenizer.open(folder)
    same = shutil.copytree(folder, tmp_path / "same")
    assert Tokenizer.open(same, like=first) is first
    other = shutil.copytree(folder, tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"w1"', '"x1"'))
    assert Tokenizer.open(other, like=first) is not first
