"""The generation loop: shared prefixes, label scores, streams, stops, limits; on a tiny model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from partition.errors import ContextLengthError
from partition.generation.choice import Choice
from partition.generation.generation import Generator
from partition.generation.reading import StoppedError
from partition.generation.sampling import SamplingRule
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision
from partition.text.tokenizer import Tokenizer
from partition.weights.safetensors_folder import SafetensorsFolder
from tests.tiny_models import VOCAB_SIZE, write_tiny_model

CONTEXT = 64
Labels = list[tuple[int, ...]]
PROMPT = [5, 9, 33, 2, 71, 8] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation") / "model"
    write_tiny_model("llama", folder)
    write_word_tokenizer(folder)
    return folder


def write_word_tokenizer(folder: Path) -> None:
    words = {f"w{index}": index for index in range(VOCAB_SIZE)}
    tokenizer = HFTokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def generator(folder: Path) -> Iterator[Generator]:
    stage = OnnxStage.open(
        SafetensorsFolder.open(folder),
        precision=Precision.FLOAT32,
        threads=1,
        context_tokens=CONTEXT,
        cache_dir=folder.parent / "cache",
    )
    yield Generator(stage, Tokenizer.open(folder), context_tokens=CONTEXT, num_sessions=2)
    stage.close()


@pytest.fixture(scope="module")
def reference(folder: Path) -> torch.nn.Module:
    return write_tiny_model("llama", folder.parent / "again")


def logits_of(reference: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return reference(torch.tensor([ids])).logits[0].numpy()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_greedy_writes_what_the_reference_would(
    generator: Generator, reference: torch.nn.Module
) -> None:
    written = generator.generate(generator.prefill(PROMPT), rule=SamplingRule(), max_new_tokens=6)
    ids, expected = list(PROMPT), []
    for _ in range(6):
        row = log_softmax(logits_of(reference, ids)[-1])
        ids.append(int(row.argmax()))
        expected.append(float(row.max()))
    assert list(written.ids) == ids[len(PROMPT) :]
    np.testing.assert_allclose(written.log_probabilities, expected, atol=1e-3)
    assert written.truncated


def test_a_shared_beginning_is_run_once(generator: Generator) -> None:
    first = generator.prefill([*PROMPT, 1, 2, 3])
    assert first.num_cached_tokens == 0
    second = generator.prefill([*PROMPT, 4, 5])
    assert second.num_cached_tokens == len(PROMPT)
    alone = generator.prefill([*PROMPT, 4, 5])
    assert alone.num_cached_tokens == len(PROMPT) + 1  # the last one always runs
    np.testing.assert_allclose(alone.logits, second.logits, rtol=1e-4, atol=1e-4)


def test_another_conversation_does_not_cost_the_first_its_cache(generator: Generator) -> None:
    generator.prefill(PROMPT)
    generator.prefill(PROMPT[::-1])
    assert generator.prefill([*PROMPT, 7]).num_cached_tokens == len(PROMPT)


def test_label_scores_are_those_of_each_label_alone(
    generator: Generator, reference: torch.nn.Module
) -> None:
    labels = [(4, 8, 15), (4, 8, 16), (4, 23), (42,), (15, 16)]
    prefill = generator.prefill(PROMPT)
    for label, scores in zip(labels, generator.reader.score(prefill, labels), strict=True):
        rows = log_softmax(logits_of(reference, [*PROMPT, *label]))[len(PROMPT) - 1 :]
        expected = [rows[at][token] for at, token in enumerate(label)]
        np.testing.assert_allclose(scores, expected, atol=1e-3)
    # The prompt's own cache is as it was.
    assert generator.prefill([*PROMPT, 3]).num_cached_tokens == len(PROMPT)


def assert_same_choice(choice: Choice, prompt: list[int], labels: Labels, reference: Any) -> None:
    rows = log_softmax(logits_of(reference, prompt)[-1:])
    np.testing.assert_allclose(log_softmax(choice.logits), rows[0], atol=1e-3)
    for label, scores in zip(labels, choice.scores, strict=True):
        rows = log_softmax(logits_of(reference, [*prompt, *label]))[len(prompt) - 1 :]
        np.testing.assert_allclose(
            scores, [rows[at][one] for at, one in enumerate(label)], atol=1e-3
        )


def test_a_batch_gets_what_each_of_it_gets_alone(
    generator: Generator, reference: torch.nn.Module
) -> None:
    prompts = [[*PROMPT, 4, 8], [*PROMPT, 1], [*PROMPT, 7, 7, 3, 1, 60], [*PROMPT, 4, 9, 9]]
    labels: list[Labels] = [
        [(4, 8, 15), (4, 23)],
        [(42,), (15,)],
        [(1, 2, 3), (1, 2, 4), (9, 9)],
        [(5, 5), (5, 6)],
    ]
    choices = generator.reader.choose_many(prompts, labels)
    for one in zip(choices, prompts, labels, strict=True):
        assert_same_choice(*one, reference)
    # What they share was run once, in the run of the first.
    assert [choice.num_cached_tokens for choice in choices] == [0] + [len(PROMPT)] * 3
    # The first prompt's own cache stands.
    assert generator.prefill([*prompts[0], 3]).num_cached_tokens == len(prompts[0])


def test_prompts_that_share_nothing_are_a_batch_of_one_each(
    generator: Generator, reference: torch.nn.Module
) -> None:
    prompts, labels = [PROMPT, PROMPT[::-1]], [[(1, 2), (3, 4)]] * 2
    choices = generator.reader.choose_many(prompts, labels)
    for one in zip(choices, prompts, labels, strict=True):
        assert_same_choice(*one, reference)
    assert [choice.num_cached_tokens for choice in choices] == [0, 0]


def test_a_batch_that_does_not_fit_at_once_is_parted(
    generator: Generator, reference: torch.nn.Module
) -> None:
    prompts = [[*PROMPT, *range(first, first + 14)] for first in (1, 21, 41)]
    labels = [[(1, 2), (3, 4)]] * 3
    for one in zip(generator.reader.choose_many(prompts, labels), prompts, labels, strict=True):
        assert_same_choice(*one, reference)


@pytest.mark.parametrize("length", [3, 12])
def test_a_window_shorter_than_a_batch_changes_nothing(tmp_path: Path, length: int) -> None:
    reference = write_tiny_model("gemma3", tmp_path / "model")
    write_word_tokenizer(tmp_path / "model")
    stage = OnnxStage.open(
        SafetensorsFolder.open(tmp_path / "model"),
        precision=Precision.FLOAT32,
        threads=1,
        context_tokens=CONTEXT,
        cache_dir=tmp_path / "cache",
    )
    generator = Generator(
        stage, Tokenizer.open(tmp_path / "model"), context_tokens=CONTEXT, num_sessions=1
    )
    prompts = [[5, 9, *([index] * length)] for index in range(1, 4)]
    labels = [[(4, 8, 15), (4, 8, 16), (42, 1)]] * 3
    generator.prefill([5, 9])
    for one in zip(generator.reader.choose_many(prompts, labels), prompts, labels, strict=True):
        assert_same_choice(*one, reference)
    stage.close()


def test_a_seed_repeats_itself_and_pieces_add_up(generator: Generator) -> None:
    rule = SamplingRule(temperature=1.5, top_p=0.95, seed=3)
    pieces: list[str] = []
    one = generator.generate(
        generator.prefill(PROMPT), rule=rule, max_new_tokens=8, on_text=pieces.append
    )
    two = generator.generate(generator.prefill(PROMPT), rule=rule, max_new_tokens=8)
    assert (one.ids, one.text) == (two.ids, two.text)
    assert "".join(pieces) == one.text


def test_a_stop_string_ends_the_answer_before_it(generator: Generator) -> None:
    whole = generator.generate(generator.prefill(PROMPT), rule=SamplingRule(), max_new_tokens=6)
    stop = whole.text.split()[2]
    cut = generator.generate(
        generator.prefill(PROMPT), rule=SamplingRule(), max_new_tokens=6, stops=(stop,)
    )
    assert stop not in cut.text
    assert whole.text.startswith(cut.text)
    assert not cut.truncated


def test_the_context_ends_an_answer_and_refuses_a_prompt(generator: Generator) -> None:
    prompt = (PROMPT * 3)[: CONTEXT - 3]
    written = generator.generate(generator.prefill(prompt), rule=SamplingRule(), max_new_tokens=50)
    assert len(written.ids) == 3
    assert written.truncated
    with pytest.raises(ContextLengthError, match="shorten the input"):
        generator.prefill((PROMPT * 3)[:CONTEXT])


def test_a_caller_who_gives_up_stops_the_work(generator: Generator) -> None:
    cancel = threading.Event()
    prefill = generator.prefill(PROMPT)
    pieces: list[str] = []

    def stop_after_two(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 2:
            cancel.set()

    written = generator.generate(
        prefill, rule=SamplingRule(), max_new_tokens=20, on_text=stop_after_two, cancel=cancel
    )
    assert len(written.ids) < 20
    assert written.truncated
    with pytest.raises(StoppedError):
        generator.prefill(PROMPT, cancel=cancel)
