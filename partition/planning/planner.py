"""Which mode a task runs in: what policy allows, what nothing else beats, what the operator's weights prefer.

A mode is *refused* when policy, memory, deadline, budget or a missing measurement forbids it; *dominated* when another
mode that is allowed is no worse in everything and better in something. The plan is the allowed mode with the least
weighted cost, and keeps every other one beside it with its figures, so that an operator sees why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from partition.planning.cost import Mode, Prediction, Scenario, predict_all

PRIVACY_STATEMENT = (
    "Hidden states are not anonymous. They are computed from anonymised text and are handled as identifiable data: "
    "encrypted in transit, never logged, never kept. SPLIT is data minimisation, not confidentiality. "
    "Quantisation is not a defence."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What one unit of each quantity is worth to the operator, in seconds of waiting. All at least 0."""

    per_s_to_first_token: float = 1.0
    per_s_of_answer: float = 1.0  # of the time after the first token
    per_megabyte: float = 0.1  # both ways
    per_joule: float = 0.001
    per_dollar: float = 1000.0  # a tenth of a cent is worth a second
    per_exposure: float = 1.0  # of the whole anonymised prompt, to the cloud
    per_wrong_answer: float = 60.0

    def __post_init__(self) -> None:
        if min(getattr(self, name) for name in self.__slots__) < 0:
            raise ValueError("weights are at least 0")

    def cost(self, prediction: Prediction) -> float:
        """Weighted cost of one mode, seconds."""
        answering = prediction.total_s - prediction.ttft_s
        return (
            self.per_s_to_first_token * prediction.ttft_s
            + self.per_s_of_answer * answering
            + self.per_megabyte * (prediction.bytes_up + prediction.bytes_down) / 1e6
            + self.per_joule * prediction.edge_energy_j
            + self.per_dollar * prediction.money_usd
            + self.standing_cost(prediction)
        )

    def standing_cost(self, prediction: Prediction) -> float:
        """The part that no link, load, price or battery changes: exposure and wrong answers, seconds."""
        exposed = self.per_exposure * prediction.exposure
        return exposed + self.per_wrong_answer * (1 - prediction.quality)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What a plan must keep to; a limit of None is none."""

    may_leave_device: bool = True
    may_stay_local: bool = True
    allow_split: bool = False  # hidden states are not anonymous
    same_tokenizer: bool = True  # VERIFY by token ids needs equal tokenizers
    set_up: frozenset[Mode] | None = None  # modes that this device is set up for; None: all
    layers_on_device: int | None = None  # of the cloud's model, loaded already; None: any cut
    min_layers_on_device: int = 1  # of a split, from policy
    memory_bytes: int | None = None
    max_ttft_s: float | None = None
    max_total_s: float | None = None
    max_money_usd: float | None = None  # a request
    min_quality: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One mode, judged."""

    prediction: Prediction
    refusals: tuple[str, ...]  # why it may not be used; empty: it may
    dominated_by: str | None  # name of an allowed mode that is better in every way
    cost: float  # weighted, seconds

    @property
    def is_allowed(self) -> bool:
        """Whether nothing forbids it."""
        return not self.refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a task runs, and why, with every mode's figures."""

    chosen: Prediction | None  # None: nothing is allowed
    options: tuple[Option, ...]
    reason: str

    @property
    def split_is_advised(self) -> bool:
        """Whether the model should run on both sides at once, layer by layer."""
        return self.chosen is not None and self.chosen.mode is Mode.SPLIT


def make_plan(
    scenario: Scenario, constraints: Constraints | None = None, weights: Weights | None = None
) -> Plan:
    """Predict, judge and choose. Pure; microseconds for each mode and cut."""
    return choose(
        predict_all(scenario), constraints or Constraints(), weights or Weights(), scenario
    )


def choose(
    predictions: Sequence[Prediction],
    constraints: Constraints,
    weights: Weights,
    scenario: Scenario | None = None,
) -> Plan:
    """Judge predictions and choose one: the least weighted cost, then the order in which they came."""
    refused = {id(p): refusals(p, constraints) for p in predictions}
    allowed = [p for p in predictions if not refused[id(p)]]
    options = tuple(
        Option(
            prediction=p,
            refusals=refused[id(p)],
            dominated_by=next((other.name for other in allowed if dominates(other, p)), None),
            cost=weights.cost(p),
        )
        for p in predictions
    )
    # With a weight of 0 a dominated mode may cost the same as the one that beats it: never take that one.
    candidates = [o for o in options if o.is_allowed and o.dominated_by is None]
    best = min(candidates, key=lambda option: option.cost, default=None)
    return Plan(
        chosen=best.prediction if best else None,
        options=options,
        reason=_reason(best, options, scenario),
    )


def refusals(prediction: Prediction, constraints: Constraints) -> tuple[str, ...]:
    """Everything that forbids a mode, as clauses for people."""
    mode, found = prediction.mode, []
    if mode is not Mode.LOCAL and not constraints.may_leave_device:
        found.append("the task's data may not leave the device")
    if mode in (Mode.LOCAL, Mode.CASCADE) and not constraints.may_stay_local:
        found.append("the device may not answer this task alone")
    if mode is Mode.SPLIT and not constraints.allow_split:
        found.append("the task does not allow a split: hidden states are not anonymous")
    if mode is Mode.SPLIT and (prediction.split or 0) < constraints.min_layers_on_device:
        found.append(f"policy wants {constraints.min_layers_on_device} layers on the device")
    if constraints.set_up is not None and mode not in constraints.set_up:
        found.append("this device is not set up for it")
    loaded = constraints.layers_on_device
    if mode is Mode.SPLIT and loaded is not None and prediction.split != loaded:
        found.append(f"the device has the first {loaded} layers loaded")
    if mode is Mode.VERIFY and not constraints.same_tokenizer:
        found.append("the two models do not share a tokenizer")
    limits = (
        (prediction.edge_memory_bytes, constraints.memory_bytes, "bytes of memory"),
        (prediction.ttft_s, constraints.max_ttft_s, "s to the first token"),
        (prediction.total_s, constraints.max_total_s, "s for the answer"),
        (prediction.money_usd, constraints.max_money_usd, "dollars a request"),
    )
    found += [
        f"{_short(value)} {unit} are over the limit of {_short(limit)}"
        for value, limit, unit in limits
        if limit is not None and value > limit
    ]
    if constraints.min_quality is not None and prediction.quality < constraints.min_quality:
        found.append(
            f"{prediction.quality:.1%} right is below the least quality of {constraints.min_quality:.1%}"
        )
    return tuple(found)


def dominates(one: Prediction, other: Prediction) -> bool:
    """Whether ``one`` is no worse in everything that counts, and better in something.

    Quality counts beside the six quantities of cost: without it a fast wrong answer would dominate a right one.
    """
    ours, theirs = _quantities(one), _quantities(other)
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def pareto(predictions: Sequence[Prediction]) -> tuple[Prediction, ...]:
    """The modes that no other one dominates."""
    return tuple(p for p in predictions if not any(dominates(other, p) for other in predictions))


def _quantities(prediction: Prediction) -> tuple[float, ...]:
    return (
        prediction.ttft_s,
        prediction.tpot_s,
        # The cascade's whole time is not its first token and the rest: it may end with the first.
        prediction.total_s,
        prediction.bytes_up + prediction.bytes_down,
        prediction.edge_energy_j,
        prediction.money_usd,
        prediction.exposure,
        1 - prediction.quality,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One term of the weighted cost, in words."""

    words: str  # for having less of it
    noun: str
    value: Callable[[Prediction], float]
    text: Callable[[Prediction], str] = field(repr=False)


_PARTS = (
    _Part(
        "a faster answer",
        "the whole answer",
        lambda p: p.total_s,
        lambda p: f"{_short(p.total_s)} s",
    ),
    _Part(
        "an earlier first token",
        "the first token",
        lambda p: p.ttft_s,
        lambda p: f"{_short(p.ttft_s)} s",
    ),
    _Part(
        "fewer bytes",
        "bytes",
        lambda p: p.bytes_up + p.bytes_down,
        lambda p: f"{(p.bytes_up + p.bytes_down) / 1000:.1f} KB",
    ),
    _Part(
        "less device energy",
        "device energy",
        lambda p: p.edge_energy_j,
        lambda p: f"{p.edge_energy_j:.1f} J",
    ),
    _Part("less money", "money", lambda p: p.money_usd, lambda p: f"${p.money_usd:.5f}"),
    _Part(
        "less text shown to the cloud",
        "text shown to the cloud",
        lambda p: p.exposure,
        lambda p: f"{p.exposure:.0%} of it",
    ),
    _Part(
        "more right answers", "answers", lambda p: -p.quality, lambda p: f"{p.quality:.1%} right"
    ),
)


def _reason(best: Option | None, options: Sequence[Option], scenario: Scenario | None) -> str:
    """One paragraph: the choice, what it wins against the next best one, what was refused, what of a split."""
    if best is None:
        causes = sorted({refusal for option in options for refusal in option.refusals})
        return f"No mode is allowed: {'; '.join(causes)}. Relax one of these limits."
    chosen = best.prediction
    sentences = [f"Run {chosen.name}: the least weighted cost of what is allowed."]
    others = [
        o for o in options if o.is_allowed and o is not best and o.prediction.mode != chosen.mode
    ]
    if others:
        second = min(others, key=lambda option: option.cost)
        wins, losses = _compare(chosen, second.prediction)
        sentences.append(
            f"Against {second.prediction.name}, the next best, it has {wins or 'no single advantage'}"
            + (f", and costs more in: {losses}." if losses else ".")
        )
    by_mode: dict[Mode, str] = {}
    for option in options:
        if option.refusals:
            by_mode.setdefault(option.prediction.mode, option.refusals[0])
    allowed_modes = {option.prediction.mode for option in options if option.is_allowed}
    sentences += [
        f"Not {mode}: {refusal}." for mode, refusal in by_mode.items() if mode not in allowed_modes
    ]
    sentences.append(_about_split(chosen, options, scenario))
    return " ".join(sentence for sentence in sentences if sentence)


def _compare(chosen: Prediction, second: Prediction) -> tuple[str, str]:
    wins, losses = [], []
    for part in _PARTS:
        ours, theirs = part.value(chosen), part.value(second)
        if ours < theirs - 1e-12:
            wins.append(f"{part.words} ({part.text(chosen)} against {part.text(second)})")
        elif ours > theirs + 1e-12:
            losses.append(f"{part.noun} ({part.text(chosen)} against {part.text(second)})")
    return ", ".join(wins), ", ".join(losses)


def _about_split(chosen: Prediction, options: Sequence[Option], scenario: Scenario | None) -> str:
    splits = [option for option in options if option.prediction.mode is Mode.SPLIT]
    if not splits:
        return "Do not split: the layers of the cloud's model were not measured on the device."
    if chosen.mode is Mode.SPLIT:
        return PRIVACY_STATEMENT
    beaten = [option for option in splits if option.dominated_by is not None]
    best = min(splits, key=lambda option: option.cost)
    if len(beaten) == len(splits):
        verdict = f"every cut is dominated, the best of them by {best.dominated_by}"
    else:
        verdict = (
            f"the best cut ({best.prediction.split} layers) costs {_short(best.cost)} weighted"
        )
    trip = ""
    if scenario is not None and scenario.link is not None:
        most = 1 / max(best.prediction.tpot_s, 1e-9)
        trip = (
            f", and a round trip of {1000 * scenario.link.round_trip_s:.0f} ms for every token "
            f"holds it to {most:.1f} tokens a second"
        )
    return f"Do not split: {verdict}{trip}."


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e5 else f"{value:.3e}"
