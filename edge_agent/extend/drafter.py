"""The device's model as a drafter: it guesses what the cloud's model will say, with the same noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from partition.extend.draft_length import DraftLength
from partition.extend.lookup import MOST_GUESSED, continuation
from partition.extend.verify import DraftingSession
from partition.generation.sampling import Sampling, choose, log_softmax
from partition.stages.stage import Floats, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Tokens of one round, before the verifier has seen them."""

    ids: tuple[int, ...] = field(default=(), repr=False)
    probabilities: tuple[float, ...] = ()  # the drafter's own, of each
    seconds: float = 0.0
    num_drafted: int = 0  # before what is not worth sending was dropped


class Drafter:
    """Drafts with a whole stage, token ids in and logits out. Not thread-safe.

    Args:
        stage: The device's model; shares the cloud model's tokenizer.
        rule: The same sampling rule as the cloud's. With temperature the shared noise makes both choose alike far more
            often than two independent draws would (2408.07978).
        name: Of this answer's cache in the stage.
        clock: Monotonic seconds.
        guess: From the ids so far and a number, at most so many ids that may come next.
    """

    def __init__(
        self,
        stage: Stage,
        rule: Sampling,
        *,
        name: str,
        clock: Callable[[], float],
        guess: Callable[[tuple[int, ...], int], tuple[int, ...]] = continuation,
    ) -> None:
        self._stage = stage
        self._rule = rule
        self._name = name
        self._clock = clock
        self._guess = guess

    def prefill(self, session: DraftingSession) -> None:
        """Run the committed ids, while the frame that carries the prompt is on its way."""
        if session.to_feed:
            self._feed(session, session.to_feed)

    def draft(self, session: DraftingSession, length: DraftLength) -> Draft:
        """Draft until one more does not pay, and drop what is not worth sending.

        Where the text repeats itself, one pass runs several positions; the drafts are those of one pass for each.
        """
        most, start = min(session.most_drafts, length.most), self._clock()
        session.cached_len = min(session.cached_len, len(session.ids) - 1)
        ids: list[int] = []
        probabilities: list[float] = []
        while (
            len(ids) < most and not session.would_finish(ids) and length.should_draft(probabilities)
        ):
            fed = session.to_feed if not ids else (ids[-1],)
            # The pass gives one token more than were guessed.
            guess = self._guess((*session.ids, *ids), min(MOST_GUESSED, most - len(ids) - 1))
            all_logits = self._feed(session, fed, guess)
            session.cached_len -= len(guess)
            for logits, guessed in zip(all_logits, (*guess, None), strict=True):
                token = choose(logits, self._rule, position=len(session.ids) + len(ids))
                ids.append(token)
                probabilities.append(_probability(logits, token))
                if token != guessed or session.would_finish(ids):
                    break
                session.cached_len += 1
        seconds = self._clock() - start
        count = length.num_to_send(probabilities)
        return Draft(
            ids=tuple(ids[:count]),
            probabilities=tuple(probabilities[:count]),
            seconds=seconds,
            num_drafted=len(ids),
        )

    def finish(self, session: DraftingSession) -> tuple[int, ...]:
        """Write the rest of the answer alone: what the device says while the cloud is gone. Not verified."""
        ids: list[int] = []
        # The last committed id may be cached already, but its logits are gone: run it again.
        session.cached_len = min(session.cached_len, len(session.ids) - 1)
        while not session.would_finish(ids):
            logits = self._feed(session, session.to_feed if not ids else (ids[-1],))
            ids.append(choose(logits[-1], self._rule, position=len(session.ids) + len(ids)))
        return tuple(ids)

    def close(self) -> None:
        """Free the cache of this answer."""
        self._stage.forget(self._name)

    def _feed(
        self, session: DraftingSession, ids: tuple[int, ...], guess: tuple[int, ...] = ()
    ) -> Floats:
        """Run positions after the cached ones; a stage that holds more forgets them first.

        Returns:
            Logits ``(1 + len(guess), vocab_size)``, behind the last of ``ids`` and behind each guess.
        """
        inputs = np.asarray((*ids, *guess), np.int32)
        rows = np.arange(len(ids) - 1, len(inputs), dtype=np.int64)
        output = self._stage.extend(self._name, inputs, base_len=session.cached_len, rows=rows)
        session.cached_len += len(inputs)
        assert output.logits is not None
        return output.logits


def _probability(logits: Floats, token: int) -> float:
    return float(np.exp(log_softmax(logits)[token]))
