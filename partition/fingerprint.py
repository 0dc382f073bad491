"""What a certificate is bound to: one digest of everything that shapes a local answer and its score.

The device recomputes the fingerprint at start. A difference in any field gives another digest, and a certificate made
under the old one is void.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

UNSCORED = "default"  # in place of a scorer's digest: the built-in score without training


class Loss(enum.StrEnum):
    """What counts as an error of a local answer. Never mixed within one certificate."""

    ERROR = "error"  # differs from the ground truth
    DISAGREEMENT = "disagreement"  # differs from what the cloud answers
    REGRET = "regret"  # wrong where the cloud is right


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything but the scorer that shapes a local answer; versions change whenever behaviour may."""

    model: str  # fingerprint of weights, quantisation, tokenizer, chat template, runtime and execution provider
    prompt_sha256: str  # template, system text, kind and labels: ``Task.prompt_sha256``
    labels: tuple[str, ...] = ()
    decoding: tuple[tuple[str, str], ...] = ()  # name and value of each decoding parameter
    preprocess_version: str
    anonymizer_version: str
    language: str
    gate_version: str = ""
    head_sha256: str = (
        ""  # of the label head, if one chooses the label; not part of the digest without one
    )

    @property
    def sha256(self) -> str:
        """Digest of all fields; stands in every calibration record of this setup."""
        fields = asdict(self)
        if not self.head_sha256:
            del fields[
                "head_sha256"
            ]  # so that certificates from before there were heads stay valid
        return digest(fields)


def fingerprint(
    *, setup_sha256: str, scorer_sha256: str, task: str, loss: Loss, gate_sha256: str = ""
) -> str:
    """Digest that a certificate and a running device must share.

    Args:
        setup_sha256: :attr:`Setup.sha256`, hexadecimal.
        scorer_sha256: ``Scorer.sha256``, or :data:`UNSCORED`.
        task: The task's name.
        loss: What the certificate counts as an error.
        gate_sha256: ``PromptGate.sha256``; empty: no gate.

    Returns:
        64 hexadecimal digits.
    """
    fields = {"setup": setup_sha256, "scorer": scorer_sha256, "task": task, "loss": loss.value}
    if gate_sha256:
        fields["gate"] = gate_sha256
    return digest(fields)


def canonical_json(value: object) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, UTF-8; floats as Python's shortest repr.

    Raises:
        ValueError: The value holds NaN or an infinity.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest(value: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
