"""The tagger: what the device computes in numpy is what torch was trained on; what is learned can be written and read."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_service.training.ner.corpus import Note, NoteMaker
from cloud_service.training.ner.model import LABELS, Tagger, export
from cloud_service.training.ner.names import NameLists, NameModel
from cloud_service.training.ner.real_text import (
    biomedical_notes,
    clean_sentences,
    clinical_notes,
    conll_notes,
    tagged_notes,
)
from cloud_service.training.ner.train import Sources, train
from edge_agent.anonymize import tagger as device
from edge_agent.anonymize.alignment import align
from edge_agent.errors import PipelineUnavailableError
from partition.text.word_features import GRAMS, LOOKS, grams, identity, read_words

NAMES = NameLists(("Ada", "Noor"), ("Lind", "Okoye"), ("Brno",), ("gentle", "quick"))
TEXT = "Patient: Ada Lind, MRN 123456.\nSEEN ON 3 MAY 2024\nthe lungs are clear. José said so."


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tagger, dict[str, int], Path]:
    torch.manual_seed(3)
    words = ["", "#1", "#4", "\n", ".", ":", "the", "lungs", "are", "clear", "patient"]
    vocabulary = {word: row for row, word in enumerate(words)}
    model = Tagger(len(vocabulary)).eval()
    path = tmp_path_factory.mktemp("tagger") / "t.npz"
    export(model, vocabulary, path)
    return model, vocabulary, path


def torch_scores(model: Tagger, vocabulary: dict[str, int], text: str) -> np.ndarray:
    document = align(text)
    words = read_words(document.text, document.folded)
    rows = torch.tensor([[identity(word, vocabulary) for word in words.folded]])
    gram_rows = torch.zeros(1, len(words.folded), GRAMS, dtype=torch.int64)
    for index, word in enumerate(words.folded):
        found = grams(word)
        gram_rows[0, index, : len(found)] = torch.tensor(found)
    mask = torch.ones(1, len(words.folded), 1)
    with torch.no_grad():
        return model(rows, gram_rows, torch.from_numpy(words.looks)[None], mask)[0].numpy()


def test_the_device_computes_what_was_trained(
    trained: tuple[Tagger, dict[str, int], Path],
) -> None:
    model, vocabulary, path = trained
    document = align(TEXT)
    words = read_words(document.text, document.folded)
    mine = device.Tagger(path.read_bytes(), caution=0.0, one_case=0.0)._scores(
        words.folded, words.looks
    )
    theirs = torch_scores(model, vocabulary, TEXT)
    assert mine.shape == theirs.shape
    # int8 tables and float16 weights: close, not equal.
    assert np.abs(mine - theirs).max() < 0.05 * max(1.0, np.abs(theirs).max())


def test_a_long_text_in_pieces_is_the_text_in_one(
    trained: tuple[Tagger, dict[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tagger = device.Tagger(trained[2].read_bytes())
    document = align(TEXT * 12)
    whole = tagger.find(document)
    monkeypatch.setattr(device, "_MAX_WORDS", 50)
    assert tagger.find(document) == whole


def test_caution_finds_more(trained: tuple[Tagger, dict[str, int], Path]) -> None:
    def covered(caution: float) -> int:
        found = device.Tagger(trained[2].read_bytes(), caution=caution, one_case=caution).find(
            align(TEXT)
        )
        return sum(span.length for span in found)

    assert covered(-50.0) == 0 < covered(50.0)


def test_a_damaged_archive_is_refused() -> None:
    for content in (b"PK\x03\x04 no archive", b""):
        with pytest.raises(PipelineUnavailableError):
            device.Tagger(content)


def test_threads_share_one_tagger(trained: tuple[Tagger, dict[str, int], Path]) -> None:
    tagger = device.Tagger(trained[2].read_bytes())
    documents = [align(f"{TEXT} {n} Noor{n}") for n in range(16)]
    alone = [device.Tagger(trained[2].read_bytes()).find(document) for document in documents]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tagger.find, documents)) == alone


def test_the_recipe_gives_the_same_bytes_again(tmp_path: Path) -> None:
    makers = {language: NoteMaker(language, NAMES) for language in ("en", "pt")}
    sources = Sources((Note("The lungs are clear.", ()),), (), makers)
    written = []
    for number in range(2):
        torch.manual_seed(7)
        model = train(sources, sources.vocabulary(), notes=6, passes=1, seed=7)
        path = tmp_path / f"{number}.npz"
        export(model.eval(), sources.vocabulary(), path, recipe="{}")
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_made_up_names_read_like_the_list() -> None:
    rng = random.Random(3)
    model = NameModel(("Lindqvist", "Lindgren", "Brandgrens", "Okoye", "Okonjo"))
    made = {model.draw(rng) for _ in range(60)}
    assert all(name[0].isupper() and 3 <= len(name) <= 13 for name in made)
    assert {name[:3] for name in made} <= {"Lin", "Oko", "Bra"}
    assert made - {"Lindqvist", "Lindgren", "Brandgrens", "Okoye", "Okonjo"}


def test_words_cover_every_character_that_is_no_space() -> None:
    document = align("Ab-c 12,5 mg\n§ 病人 x_y")
    words = read_words(document.text, document.folded)
    pieces = [document.text[s:e] for s, e in zip(words.starts, words.ends, strict=True)]
    assert pieces == ["Ab", "-", "c", "12", ",", "5", "mg", "\n", "§", "病人", "x", "_", "y"]
    assert words.looks.max() < LOOKS
    assert all(row > 0 for word in words.folded for row in grams(word))
    assert max(len(grams(word)) for word in [*words.folded, "a" * 40]) <= GRAMS


def test_notes_are_labelled_where_their_values_stand() -> None:
    for language in ("en", "pt"):
        maker = NoteMaker(language, NAMES, ["Chest pain resolved."])
        for note in maker.notes(200, seed=5):
            for start, end, entity in note.spans:
                assert note.text[start:end].strip()
                assert f"B-{entity}" in LABELS


def test_corpora_say_what_they_do_not_label(tmp_path: Path) -> None:
    conll = tmp_path / "a.conll"
    conll.write_text("Ada\tB-PER\nsaw\tO\n12\tO\nmen\tO\n\nin\tO\nBrno\tB-LOC\n")
    (note,) = conll_notes(conll)
    assert note.spans == ((0, 3, "PERSON"), (18, 22, "LOCATION"))
    assert [note.text[s:e] for s, e in note.unsure] == ["12"]
    tagged = tmp_path / "a.txt"
    tagged.write_text("O_ART médico_N viu_V Ada_NPROP\n", encoding="utf-8")
    (note,) = tagged_notes(tagged)
    assert note.spans == ()
    assert [note.text[s:e] for s, e in note.unsure] == ["Ada"]
    abstracts = tmp_path / "a.tsv"
    abstracts.write_text("Aspirin\tB-Chemical\nin\tO\nSpain\tO\nhelps\tO\nReye\tB-Disease\n")
    (note,) = biomedical_notes(abstracts)
    assert [note.text[s:e] for s, e in note.unsure] == ["Spain"]


def test_clinical_text_names_those_whom_it_introduces(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "Noor Lind is a 60-year-old. Dr. Okoye saw 3 clear lungs. Noor is well."}\n'
    )
    (note,) = clinical_notes(path)
    assert [note.text[s:e] for s, e, _ in note.spans] == ["Noor Lind", "Okoye", "Noor"]
    assert "Dr. Okoye" in [note.text[s:e] for s, e in note.unsure]
    assert list(clean_sentences(path)) == []
