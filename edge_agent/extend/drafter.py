"""The device's model as a drafter: it guesses what the cloud's model will say, with the same noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from partition.extend.draft_length import DraftLength
from partition.extend.verify import DraftingSession
from partition.generation.sampling import Sampling, choose, log_softmax
from partition.stages.stage import Floats, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Tokens of one round, before the verifier has seen them."""

    ids: tuple[int, ...] = field(default=(), repr=False)
    probabilities: tuple[float, ...] = ()  # the drafter's own, of each
    seconds: float = 0.0
    num_fed: int = 0  # positions the model was run over


class Drafter:
    """Drafts with a whole stage, token ids in and logits out. Not thread-safe.

    Args:
        stage: The device's model; shares the cloud model's tokenizer.
        rule: The same sampling rule as the cloud's. With temperature the shared noise makes both choose alike far more
            often than two independent draws would (2408.07978).
        name: Of this answer's cache in the stage.
        clock: Monotonic seconds.
    """

    def __init__(
        self, stage: Stage, rule: Sampling, *, name: str, clock: Callable[[], float]
    ) -> None:
        self._stage = stage
        self._rule = rule
        self._name = name
        self._clock = clock

    def prefill(self, session: DraftingSession) -> None:
        """Run the committed ids, while the frame that carries the prompt is on its way."""
        if session.to_feed:
            self._feed(session, session.to_feed)

    def draft(self, session: DraftingSession, length: DraftLength) -> Draft:
        """Draft until one more does not pay, and drop what is not worth sending."""
        most, start = session.most_drafts, self._clock()
        session.cached_len = min(session.cached_len, len(session.ids) - 1)
        ids: list[int] = []
        probabilities: list[float] = []
        num_fed = 0
        while len(ids) < most and length.should_draft(probabilities):
            fed = session.to_feed if not ids else (ids[-1],)
            logits = self._feed(session, fed)
            num_fed += len(fed)
            position = len(session.ids) + len(ids)
            token = choose(logits, self._rule, position=position)
            ids.append(token)
            probabilities.append(_probability(logits, token))
        seconds = self._clock() - start
        count = length.num_to_send(probabilities)
        return Draft(
            ids=tuple(ids[:count]),
            probabilities=tuple(probabilities[:count]),
            seconds=seconds,
            num_fed=num_fed,
        )

    def finish(self, session: DraftingSession) -> tuple[int, ...]:
        """Write the rest of the answer alone: what the device says while the cloud is gone. Not verified."""
        ids: list[int] = []
        # The last committed id may be cached already, but its logits are gone: run it again.
        session.cached_len = min(session.cached_len, len(session.ids) - 1)
        while not session.would_finish(ids):
            logits = self._feed(session, session.to_feed if not ids else (ids[-1],))
            ids.append(choose(logits, self._rule, position=len(session.ids) + len(ids)))
        return tuple(ids)

    def close(self) -> None:
        """Free the cache of this answer."""
        self._stage.forget(self._name)

    def _feed(self, session: DraftingSession, ids: tuple[int, ...]) -> Floats:
        """Run positions after the cached ones; a stage that holds more forgets them first."""
        output = self._stage.extend(
            self._name, np.asarray(ids, np.int32), base_len=session.cached_len
        )
        session.cached_len += len(ids)
        assert output.logits is not None
        logits: Floats = output.logits[-1]
        return logits


def _probability(logits: Floats, token: int) -> float:
    return float(np.exp(log_softmax(logits)[token]))
