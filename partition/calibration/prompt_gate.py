"""A gate before the local model: from the words of a request, whether its local answer could be sure enough at all.

Where it is not, the model is not asked and the request goes to the cloud at once. The gate only defers: it never lets an answer stand.
It is a linear model on hashed words, in a JSON file that numpy alone evaluates. A certificate holds for the answers that pass the
gate *and* reach the threshold, so the gate's digest is part of its fingerprint.
"""

from __future__ import annotations

import base64
import itertools
import math
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from partition.errors import CalibrationError
from partition.fingerprint import digest

WIDTH = 1024
GATED_SCORE = -1e6  # of an answer that the gate would not have asked for; below every real score
_WORD = re.compile(r"\w+|[^\w\s]")


def prompt_vector(text: str) -> tuple[float, ...]:
    """Words and pairs of words, hashed with signs into ``(WIDTH,)``, of length 1; the zero vector for no words.

    Signed hashing keeps inner products (Weinberger et al., arXiv 0902.2206). Counts enter by their square root.
    """
    words = _WORD.findall(text.lower())
    pieces = Counter(words) + Counter(map(" ".join, itertools.pairwise(words)))
    vector = np.zeros(WIDTH)
    for piece, count in pieces.items():
        code = zlib.crc32(piece.encode())
        vector[code % WIDTH] += math.copysign(math.sqrt(count), 1 if code >> 31 else -1)
    length = float(np.linalg.norm(vector))
    return tuple((vector / length if length else vector).astype(np.float32).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGate:
    """Passes a request whose local answer may be sure enough."""

    task: str
    weights: tuple[float, ...] = field(repr=False)  # (WIDTH,), float32 values
    intercept: float
    least: float  # least logit that passes
    kept: float = 1.0  # share of the sure answers that it was made to keep
    num_records: int = 0

    def logit(self, prompt: tuple[float, ...]) -> float:
        """Log-odds that the local answer would be sure enough."""
        return float(np.dot(self.weights, prompt)) + self.intercept

    def passes(self, prompt: tuple[float, ...]) -> bool:
        """Whether the local model is asked; always for a vector of another width."""
        return len(prompt) != len(self.weights) or self.logit(prompt) >= self.least

    @property
    def sha256(self) -> str:
        """Digest of what it decides."""
        return digest({"weights": self.weights, "intercept": self.intercept, "least": self.least})

    @classmethod
    def load(cls, path: Path) -> PromptGate:
        """Read a file of :meth:`to_json`.

        Raises:
            CalibrationError: It cannot be read, or is no gate; the message names file and key.
        """
        try:
            return _GateFile.model_validate_json(path.read_bytes()).to_gate()
        except OSError as error:
            raise CalibrationError(
                f"{path}: cannot be read ({type(error).__name__}); train one with `partition calibrate --train-gate`"
            ) from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "file"
            raise CalibrationError(
                f"{path}, key {key!r}: {first['msg']}; train the gate again"
            ) from error

    def to_json(self) -> str:
        """The gate as indented JSON; :meth:`load` gives an equal one."""
        document = _GateFile(
            task=self.task,
            weights=base64.b64encode(np.array(self.weights, dtype="<f4").tobytes()).decode(),
            intercept=self.intercept,
            least=self.least,
            kept=self.kept,
            num_records=self.num_records,
        )
        return document.model_dump_json(indent=1) + "\n"


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _GateFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    version: Literal[1] = 1
    kind: Literal["prompt-gate"] = "prompt-gate"
    task: str
    weights: str  # (WIDTH,) float32, little-endian, base64
    intercept: _Finite
    least: _Finite
    kept: Annotated[float, Field(ge=0, le=1)] = 1.0
    num_records: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        data = base64.b64decode(self.weights, validate=True)
        if len(data) != 4 * WIDTH or not np.isfinite(_floats(data)).all():
            raise ValueError(f"`weights` must hold {WIDTH} finite numbers")
        return self

    def to_gate(self) -> PromptGate:
        return PromptGate(
            task=self.task,
            weights=tuple(_floats(base64.b64decode(self.weights)).tolist()),
            intercept=self.intercept,
            least=self.least,
            kept=self.kept,
            num_records=self.num_records,
        )


def _floats(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, dtype="<f4")
