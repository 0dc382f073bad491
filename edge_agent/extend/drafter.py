"""The device's model as a drafter: it guesses what the cloud's model will say, with the same noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from partition.extend.draft_length import MAX_DRAFT, DraftLength
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ahead:
    """What was drafted while the last frame was away, in the belief that every draft of it stands."""

    end: int  # committed ids, if the belief is right
    next_id: int = field(
        repr=False
    )  # the cloud's own token after the drafts, as the device guesses it
    ids: tuple[int, ...] = field(repr=False)  # drafts behind it
    probabilities: tuple[float, ...]
    cached_len: int  # positions in the device's cache, if the belief is right


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
        self._ahead: _Ahead | None = None

    def prefill(self, session: DraftingSession) -> None:
        """Run the committed ids, while the frame that carries the prompt is on its way."""
        if session.to_feed:
            self._feed(session, session.to_feed)

    def draft(self, session: DraftingSession, length: DraftLength) -> Draft:
        """Draft until one more does not pay, and drop what is not worth sending."""
        most, start = session.most_drafts, self._clock()
        session.cached_len = min(session.cached_len, len(session.ids) - 1)
        ids, probabilities = self._from_ahead(session, most)
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

    def draft_ahead(
        self, session: DraftingSession, drafts: tuple[int, ...], until_s: float
    ) -> None:
        """Go on drafting behind a frame that is away, until its reply is due; worth nothing unless all of it stands.

        Args:
            session: Whose frame is away.
            drafts: Those of the frame.
            until_s: On the clock; no token is begun that would probably end after it.
        """
        committed = len(session.ids)
        # Drafts that were not sent may be cached; what is fed again is the last one that was.
        base = min(session.cached_len, committed + len(drafts) - 1)
        fed = (*session.ids, *drafts)[base:]
        token_s, next_id = 0.0, None
        ids: list[int] = []
        probabilities: list[float] = []
        while fed and len(ids) < MAX_DRAFT and self._clock() + token_s < until_s:
            started = self._clock()
            output = self._stage.extend(self._name, np.asarray(fed, np.int32), base_len=base)
            base += len(fed)
            assert output.logits is not None
            logits: Floats = output.logits[-1]
            token = choose(logits, self._rule, position=base)
            if next_id is None:
                next_id = token
            else:
                ids.append(token)
                probabilities.append(_probability(logits, token))
            fed = (token,)
            token_s = self._clock() - started
        if next_id is not None:
            self._ahead = _Ahead(
                end=committed + len(drafts) + 1,
                next_id=next_id,
                ids=tuple(ids),
                probabilities=tuple(probabilities),
                cached_len=base,
            )

    def _from_ahead(self, session: DraftingSession, most: int) -> tuple[list[int], list[float]]:
        """What was drafted ahead, if the last frame turned out as it was believed to."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or len(session.ids) != ahead.end or session.ids[-1] != ahead.next_id:
            return [], []
        # The cache holds the committed ids and all but the last of these drafts: nothing has to be run again.
        count = min(most, len(ahead.ids))
        session.cached_len = min(ahead.cached_len, len(session.ids) + max(0, count - 1))
        return list(ahead.ids[:count]), list(ahead.probabilities[:count])

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
