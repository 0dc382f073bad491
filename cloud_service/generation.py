"""What the servicers ask of a backend, and what comes back; no protobuf, no torch."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from cloud_service.config import PricesConfig
from cloud_service.identity import Identity
from partition.generation.sampling import SamplingRule
from partition.task import Message

_MILLION = 1_000_000


class Interrupt:
    """Asks running generations to stop where they are, so that they can go on elsewhere. Event loop only."""

    def __init__(self) -> None:
        self.is_set = False
        self._callbacks: set[Callable[[], None]] = set()

    def set(self) -> None:
        """Ask all of them, and everyone who subscribes later."""
        self.is_set = True
        for callback in tuple(self._callbacks):
            callback()

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when it is set; at once if it is."""
        self._callbacks.add(callback)
        if self.is_set:
            callback()

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Forget a callback; harmless when repeated."""
        self._callbacks.discard(callback)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request for an answer, checked against the limits."""

    identity: Identity
    messages: tuple[Message, ...] = field(repr=False)
    sampling: SamplingRule
    max_output_tokens: int
    stop: tuple[str, ...] = field(default=(), repr=False)
    labels: tuple[str, ...] = field(default=(), repr=False)
    resumed_ids: tuple[int, ...] = field(
        default=(), repr=False
    )  # of the answer, written by another server
    resumed_characters: int = 0  # of the answer, that the caller has
    deadline_s: float  # on the clock of time.monotonic
    interrupt: Interrupt = field(repr=False, compare=False)


class EndReason(enum.Enum):
    """Why an answer ended."""

    STOP = "stop"  # end of sequence, or a stop string
    LENGTH = "length"
    LABEL = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one answer took."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # of the input, found in a prefix cache
    compute_us: int = 0  # this request's share of the engine's time
    queue_us: int = 0

    def cost_micro_usd(self, prices: PricesConfig) -> int:
        """What is billed, millionths of a dollar, rounded up so that no work is free."""
        millionths_of_micro = round(
            _MILLION
            * (
                prices.input_usd * (self.input_tokens - self.cached_tokens)
                + prices.cached_input_usd * self.cached_tokens
                + prices.output_usd * self.output_tokens
            )
        )
        return -(-millionths_of_micro // _MILLION)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """More of the answer."""

    text: str = field(repr=False)
    token_ids: tuple[int, ...] = field(
        repr=False
    )  # all that were chosen since the last delta, also those still held back


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """How likely the model finds one label as the whole answer."""

    label: str
    log_probability: float  # natural logarithm, summed over the label's tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The answer is whole. A generation that was interrupted ends without this."""

    reason: EndReason
    text: str = field(repr=False)
    usage: Usage
    label_scores: tuple[LabelScore, ...] = ()


GenerationEvent = TextDelta | Completed
