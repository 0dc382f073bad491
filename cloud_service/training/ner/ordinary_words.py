r"""Write the list of ordinary words that veto a model's guess: words that reports write in small letters, and that are no names.

python -m cloud_service.training.ner.ordinary_words --clinical MTS-Dialog-TrainingSet.csv aci-bench-train.csv --lener ner-pt \
        --output edge_agent/anonymize/words/ordinary.txt
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from cloud_service.training.ner import templates_en, templates_pt
from cloud_service.training.ner.corpus import lener_words
from cloud_service.training.ner.real_text import biomedical_notes, read_texts, tagged_notes
from partition.text.fold import fold

_MIN_COUNT = 2
_MIN_LETTERS = 4
_WORD = re.compile(r"(?<![\w'-])[^\W\d_]{4,24}(?![\w'-])")
_TITLE = "# Words that reports write in small letters; a model's guess made of them alone is dropped. Made by cloud_service/training/ner/ordinary_words.py."


def main() -> None:
    """Read the arguments and write the list."""
    parser = argparse.ArgumentParser(description="List ordinary words of clinical text.")
    parser.add_argument("--clinical", type=Path, nargs="*", default=[], help="JSONL or CSV")
    parser.add_argument("--biomedical", type=Path, nargs="*", default=[], help="abstracts, IOB")
    parser.add_argument("--tagged", type=Path, nargs="*", default=[], help="word_TAG")
    parser.add_argument("--lener", type=Path, help="folder of LeNER-Br")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    texts = [text for path in options.clinical for text in read_texts(path)]
    texts += [note.text for path in options.biomedical for note in biomedical_notes(path)]
    texts += [note.text for path in options.tagged for note in tagged_notes(path)]
    more = lener_words(options.lener / "train.conll") if options.lener else set()
    words = ordinary_words(texts, names=set(names()), more=more)
    lines = textwrap.wrap(" ".join(words), 118)
    options.output.write_text("\n".join((_TITLE, *lines)) + "\n", encoding="utf-8")


def ordinary_words(texts: Iterable[str], *, names: set[str], more: Iterable[str] = ()) -> list[str]:
    """Folded words in small letters that are written so twice or more, and never the name of a person.

    Args:
        texts: Running text.
        names: Folded names to leave out.
        more: Words known to be ordinary.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(fold(word) for word in _WORD.findall(text) if word.islower())
    found = {word for word, count in counts.items() if count >= _MIN_COUNT}
    for templates in (templates_en, templates_pt):
        for template in templates.CLEAN:
            found.update(fold(word) for word in _WORD.findall(template) if word.islower())
    found.update(fold(word) for word in more if len(word) >= _MIN_LETTERS)
    return sorted(found - names)


def names() -> Iterator[str]:
    """Given names and surnames of every locale of Faker, folded."""
    from faker.config import AVAILABLE_LOCALES
    from faker.factory import Factory

    for locale in sorted(AVAILABLE_LOCALES):
        module, found, _ = Factory._find_provider_class("faker.providers.person", locale)
        if found != locale:
            continue
        for attribute in dir(module):
            if "name" in attribute:
                values = getattr(module, attribute)
                for value in values if isinstance(values, tuple | list | dict) else ():
                    yield from (fold(part) for part in re.findall(r"[^\W\d_]+", str(value)))


if __name__ == "__main__":
    main()
