"""The trained confidence score in portable form: a JSON file that numpy alone evaluates.

A score is the raw logit of a logistic regression on standardised features. Thresholds and certificates compare the raw
logit; the calibrated probability is for people (isotonic output has plateaus, hence ties).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from partition.errors import CalibrationError
from partition.fingerprint import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Platt:
    """Probability ``1 / (1 + exp(-(slope * score + offset)))``."""

    slope: float
    offset: float

    def probability(self, score: float) -> float:
        """Probability of being right, in [0, 1]."""
        return sigmoid(self.slope * score + self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Isotonic:
    """Piecewise linear between knots, constant outside them."""

    scores: tuple[float, ...]  # ascending
    probabilities: tuple[float, ...]  # never falling

    def probability(self, score: float) -> float:
        """Probability of being right, in [0, 1]."""
        return float(np.interp(score, self.scores, self.probabilities))


Display = Platt | Isotonic
RAW = Platt(slope=1.0, offset=0.0)  # the logit as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A linear probe on one hidden state; its logit is the feature ``probe``."""

    coefficients: tuple[float, ...]
    intercept: float

    def logit(self, hidden: tuple[float, ...]) -> float | None:
        """Logit of being right; None when the state has another width than the probe was trained on."""
        if len(hidden) != len(self.coefficients):
            return None
        return float(np.dot(self.coefficients, hidden)) + self.intercept


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelProbe:
    """What one hidden state says of the right label; its log-odds of the label that was chosen are the feature ``probe``.

    One plane through the hidden states cannot tell right from wrong where the model says more than one label: right is "says
    normal and is normal, or says abnormal and is abnormal". So the probe is on the right label, and is asked about the chosen one.
    """

    weights: tuple[tuple[float, ...], ...]  # (labels, width)
    intercepts: tuple[float, ...]
    places: tuple[int, ...]  # of each row: i of the feature ``label_i``; -1: nobody chose it yet

    def logit(self, hidden: tuple[float, ...], place: int) -> float | None:
        """Log-odds of the label at ``place``; None for one it does not know, or a state of another width."""
        if place not in self.places or len(hidden) != len(self.weights[0]):
            return None
        logits = np.array(self.weights) @ np.array(hidden) + np.array(self.intercepts)
        row = self.places.index(place)
        return float(logits[row] - np.logaddexp.reduce(np.delete(logits, row)))


def chosen_place(features: Iterable[tuple[str, float]]) -> int:
    """I of the feature ``label_i`` that is set; -1: none is."""
    for name, value in features:
        if value == 1.0 and name.startswith("label_") and name[6:].isdecimal():
            return int(name[6:])
    return -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Features in, one number out: higher is surer.

    A feature that is missing or not finite counts as its training mean, and adds the coefficient of its indicator.
    """

    task: str
    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]  # standard deviations, above zero
    coefficients: tuple[float, ...]
    missing_coefficients: tuple[float, ...]
    intercept: float
    display: Display = RAW
    probe: Probe | None = None
    label_probe: LabelProbe | None = None  # in place of a probe, where the right labels were known
    num_records: int = 0  # labelled records it was trained on

    def score(self, features: Iterable[tuple[str, float]]) -> float:
        """Raw logit of the local answer being right."""
        values = dict(features)
        given = np.array([values.get(name, math.nan) for name in self.names], dtype=np.float64)
        missing = ~np.isfinite(given)
        standard = np.where(missing, 0.0, (given - np.array(self.mean)) / np.array(self.scale))
        logit = standard @ np.array(self.coefficients)
        return float(logit + missing @ np.array(self.missing_coefficients)) + self.intercept

    def completed(
        self, features: tuple[tuple[str, float], ...], hidden: tuple[float, ...]
    ) -> tuple[tuple[str, float], ...]:
        """The features with that of the probe, if there is a probe and a hidden state that fits it."""
        logit = self.probe.logit(hidden) if self.probe is not None else None
        if self.label_probe is not None:
            logit = self.label_probe.logit(hidden, chosen_place(features))
        return features if logit is None else (*features, ("probe", logit))

    def probability(self, features: Iterable[tuple[str, float]]) -> float:
        """Calibrated probability of the local answer being right, for people."""
        return self.display.probability(self.score(features))

    @property
    def sha256(self) -> str:
        """Digest for the fingerprint of a certificate."""
        fields = asdict(self)
        if self.label_probe is None:
            del fields[
                "label_probe"
            ]  # so that scorers from before there were any keep their digest
        return digest(fields)

    @classmethod
    def load(cls, path: Path) -> Scorer:
        """Read a scorer file.

        Raises:
            CalibrationError: The file cannot be read, or is no scorer; the message names file and key.
        """
        try:
            return _ScorerFile.model_validate_json(path.read_bytes()).to_scorer()
        except OSError as error:
            raise CalibrationError(
                f"{path}: cannot be read ({type(error).__name__}); train one with `partition calibrate --train-scorer`"
            ) from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "file"
            raise CalibrationError(
                f"{path}, key {key!r}: {first['msg']}; train the scorer again"
            ) from error

    def save(self, path: Path) -> None:
        """Write the scorer as JSON; :meth:`load` gives an equal one."""
        path.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The scorer as indented JSON."""
        return _ScorerFile.from_scorer(self).model_dump_json(indent=1) + "\n"


def sigmoid(logit: float) -> float:
    """Logistic function without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1.0 + odds)


_MAX_FEATURES = 10_000
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Vector = Annotated[tuple[_Finite, ...], Field(max_length=_MAX_FEATURES)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class _PlattPart(_Part):
    kind: Literal["platt"] = "platt"
    slope: _Finite
    offset: _Finite


class _IsotonicPart(_Part):
    kind: Literal["isotonic"] = "isotonic"
    scores: Annotated[_Vector, Field(min_length=1)]
    probabilities: Annotated[_Vector, Field(min_length=1)]

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.scores) != len(self.probabilities):
            raise ValueError("`scores` and `probabilities` differ in length")
        if list(self.scores) != sorted(self.scores):
            raise ValueError("`scores` must ascend")
        if list(self.probabilities) != sorted(self.probabilities):
            raise ValueError("`probabilities` must never fall")
        if self.probabilities[0] < 0 or self.probabilities[-1] > 1:
            raise ValueError("`probabilities` must lie in [0, 1]")
        return self


class _ProbePart(_Part):
    coefficients: _Vector
    intercept: _Finite


class _LabelProbePart(_Part):
    weights: Annotated[tuple[_Vector, ...], Field(min_length=2, max_length=1000)]
    intercepts: _Vector
    places: tuple[Annotated[int, Field(ge=-1)], ...]

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        lengths = {len(row) for row in self.weights}
        if (
            len(lengths) != 1
            or len({len(self.weights), len(self.intercepts), len(self.places)}) != 1
        ):
            raise ValueError("`weights`, `intercepts` and `places` differ in length")
        return self


class _ScorerFile(_Part):
    version: Literal[1] = 1
    task: str
    names: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...]
    mean: _Vector
    scale: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    coefficients: _Vector
    missing_coefficients: _Vector
    intercept: _Finite
    display: Annotated[_PlattPart | _IsotonicPart, Field(discriminator="kind")]
    probe: _ProbePart | None = None
    label_probe: _LabelProbePart | None = None
    num_records: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        vectors = (self.mean, self.scale, self.coefficients, self.missing_coefficients)
        if any(len(vector) != len(self.names) for vector in vectors):
            raise ValueError("`names` and the vectors differ in length")
        if len(set(self.names)) != len(self.names):
            raise ValueError("`names` must differ from each other")
        return self

    @classmethod
    def from_scorer(cls, scorer: Scorer) -> _ScorerFile:
        kind = "platt" if isinstance(scorer.display, Platt) else "isotonic"
        fields = asdict(scorer)
        return cls.model_validate(fields | {"display": {"kind": kind} | fields["display"]})

    def to_scorer(self) -> Scorer:
        display: Display
        if isinstance(self.display, _PlattPart):
            display = Platt(slope=self.display.slope, offset=self.display.offset)
        else:
            display = Isotonic(scores=self.display.scores, probabilities=self.display.probabilities)
        fields = self.model_dump(exclude={"version", "display", "probe", "label_probe"})
        probe = Probe(**self.probe.model_dump()) if self.probe is not None else None
        label_probe = (
            LabelProbe(**self.label_probe.model_dump()) if self.label_probe is not None else None
        )
        return Scorer(**fields, display=display, probe=probe, label_probe=label_probe)
