"""Prompts that ask for the impression of a chest X-ray report; no two alike, so that no cache of prefixes helps."""

from __future__ import annotations

from pathlib import Path

from benchmarks._cloud_pair import EdgeModel
from benchmarks._model_outputs import read_examples
from partition.task import Message, Role

PROMPT = "Case {number}. Write the impression of this chest X-ray report in one or two sentences.\nFindings: {text}"


class ReportPrompts:
    """Texts by number; the same number is the same text.

    Args:
        data: Folder of data.
    """

    def __init__(self, data: Path) -> None:
        self._examples = read_examples(data / "cxr" / "dev.jsonl")

    def text(self, report: int, *, run: int = 0) -> str:
        """The prompt of one report; another ``run`` differs in its case number alone."""
        example = self._examples[report]
        return PROMPT.format(number=1000 * (run + 1) + report, text=example.text)


def ids_of(edge: EdgeModel, text: str) -> tuple[int, ...]:
    """Token ids of a prompt, as both sides make them."""
    messages = (Message(role=Role.USER, text=text),)
    return edge.tokenizer.encode(edge.tokenizer.chat.render(messages), with_specials=True)
