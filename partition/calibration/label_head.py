"""A label head: what a task's labelled examples taught about one hidden state of the model, in portable form.

A small model that was never shown a task often says the same label to everything, while its hidden state tells the labels
apart. The head is a multinomial logistic regression from the residual stream at the last position of the prompt, which the
answer needs anyway, to the task's labels. It replaces the model's own choice among the labels; it adds no pass of the model.

It is trained for one setup (model, prompt, anonymizer), and its digest becomes part of the setup that a certificate is bound to.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from partition.errors import CalibrationError
from partition.fingerprint import digest

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelHead:
    """From a hidden state to log-probabilities of a task's labels."""

    task: str
    labels: tuple[str, ...]
    setup: str  # Setup.sha256 of what it was trained on, without a head
    weights: tuple[tuple[float, ...], ...] = field(repr=False)  # (labels, width), float32 values
    intercepts: tuple[float, ...]
    num_records: int = 0
    learned_from: frozenset[str] = field(default=frozenset(), repr=False)  # clusters of the records

    def log_probabilities(self, hidden: tuple[float, ...]) -> tuple[float, ...] | None:
        """Natural logarithms, in the order of the labels; None for a hidden state of another width."""
        if len(hidden) != len(self.weights[0]):
            return None
        logits = np.array(self.weights) @ np.array(hidden) + np.array(self.intercepts)
        return tuple((logits - np.logaddexp.reduce(logits)).tolist())

    @property
    def sha256(self) -> str:
        """Digest of what it computes."""
        return digest(
            {
                "task": self.task,
                "labels": self.labels,
                "weights": self.weights,
                "intercepts": self.intercepts,
            }
        )

    @classmethod
    def load(cls, path: Path) -> LabelHead:
        """Read a file of :meth:`to_json`.

        Raises:
            CalibrationError: It cannot be read, or is no label head; the message names file and key.
        """
        try:
            return _HeadFile.model_validate_json(path.read_bytes()).to_head()
        except OSError as error:
            raise CalibrationError(
                f"{path}: cannot be read ({type(error).__name__}); train one with `partition train-head`"
            ) from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "file"
            raise CalibrationError(
                f"{path}, key {key!r}: {first['msg']}; train the head again"
            ) from error

    def to_json(self) -> str:
        """The head as indented JSON; :meth:`load` gives an equal one."""
        weights = np.array(self.weights, dtype="<f4")
        return (
            _HeadFile(
                task=self.task,
                labels=self.labels,
                setup=self.setup,
                width=weights.shape[1],
                weights=base64.b64encode(weights.tobytes()).decode(),
                intercepts=self.intercepts,
                num_records=self.num_records,
                learned_from=tuple(sorted(self.learned_from)),
            ).model_dump_json(indent=1)
            + "\n"
        )


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_MAX_LABELS, _MAX_WIDTH = 1000, 100_000


class _HeadFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    version: Literal[1] = 1
    kind: Literal["label-head"] = "label-head"
    task: str
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=_MAX_LABELS)]
    setup: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    width: Annotated[int, Field(ge=1, le=_MAX_WIDTH)]
    weights: str  # (labels, width) float32, little-endian, base64
    intercepts: tuple[_Finite, ...]
    num_records: Annotated[int, Field(ge=0)] = 0
    learned_from: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("`labels` must differ from each other")
        if len(self.intercepts) != len(self.labels):
            raise ValueError("`intercepts` and `labels` differ in length")
        data = base64.b64decode(self.weights, validate=True)
        if len(data) != 4 * len(self.labels) * self.width:
            raise ValueError("`weights` must hold labels x width numbers")
        if not np.isfinite(np.frombuffer(data, dtype="<f4")).all():
            raise ValueError("`weights` must be finite")
        return self

    def to_head(self) -> LabelHead:
        data = np.frombuffer(base64.b64decode(self.weights), dtype="<f4")
        rows = data.reshape(len(self.labels), self.width)
        return LabelHead(
            task=self.task,
            labels=self.labels,
            setup=self.setup,
            weights=tuple(tuple(row) for row in rows.tolist()),
            intercepts=self.intercepts,
            num_records=self.num_records,
            learned_from=frozenset(self.learned_from),
        )
