"""One request by VERIFY: the device's model drafts, the cloud's verifies, and the text is the cloud's own.

Possible only while both sides have the same tokenizer and chat template, by SHA-256; found out once and remembered until a
session is refused. Whatever prevents it is a sentence, and the request goes to the cloud as text.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.anonymize.anonymized import Anonymized
from edge_agent.cloud.cloud import GenerateOptions
from edge_agent.cloud.session_cloud import KnownModel, SessionCloud, opening_of
from edge_agent.extend.answer_writer import AnswerWriter
from edge_agent.extend.drafter import Drafter
from edge_agent.extend.exchange import OnExchange
from edge_agent.extend.verify import Ending, Verification, VerifyResult
from edge_agent.local_model import LocalModel
from partition.extend.draft_length import Acceptance, RoundCosts
from partition.extend.frames import PREFIX_KEY_BYTES
from partition.extend.verify import DraftingSession
from partition.generation.sampling import SamplingRule

_SESSION = "verify"  # name of the drafter's cache in the device's stage


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedText:
    """What came of one request."""

    text: str = field(repr=False)  # surrogates, not originals
    num_verified_characters: int  # of the text; all of it unless the cloud was lost
    fingerprint: str  # of the cloud's model
    num_input_tokens: int
    result: VerifyResult

    @property
    def is_whole(self) -> bool:
        """Whether the text is the cloud's own to its end."""
        return self.result.ending is Ending.VERIFIED


class VerifiedAnswers:
    """Answers requests by VERIFY. Thread-safe: one drafts at a time.

    Args:
        cloud: Where the large model is.
        costs: Predicted costs of a round, from the plan.
        streaming_s: Seconds a token of the cloud alone, from the plan.
        finish_locally: Policy: whether the device may write the rest alone when the cloud is gone.
        on_exchange: Told of each frame after the prompt, for the live plan.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        cloud: SessionCloud,
        *,
        costs: RoundCosts,
        streaming_s: float = float("inf"),
        finish_locally: bool = True,
        on_exchange: OnExchange = lambda exchanged: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud = cloud
        self._on_exchange = on_exchange
        self._costs = costs
        self._streaming_s = streaming_s
        self._finish_locally = finish_locally
        self._clock = clock
        self._drafting = threading.Lock()  # one cache for drafts, whatever waits for it
        self._model = KnownModel(cloud)
        self._acceptance = Acceptance()  # used by whoever drafts

    def why_not(self, model: LocalModel, options: GenerateOptions) -> str:
        """Why this request cannot go by VERIFY, in one sentence; empty when it can.

        Raises:
            WireError: The cloud cannot be asked which model it has.
        """
        if options.stop:
            return "stop strings are found in text, not in tokens"
        if options.model:
            return "another model than the cloud's default was asked for"
        tokenizer, card = model.tokenizer, self._model.get()
        if tokenizer.sha256 != card.tokenizer_sha256:
            return (
                "the cloud's model has another tokenizer than the device's; "
                "choose a pair with one tokenizer, or set cloud.verify = false"
            )
        if tokenizer.chat.sha256 != card.chat_template_sha256:
            return "the cloud's model has another chat template than the device's"
        return ""

    def answer(
        self,
        model: LocalModel,
        anonymized: Anonymized,
        options: GenerateOptions,
        *,
        on_text: Callable[[str], None] = lambda text: None,
    ) -> VerifiedText:
        """Answer one request for which :meth:`why_not` is empty.

        Args:
            model: The device's model, which drafts.
            anonymized: The request; nothing else is accepted.
            options: How to answer.
            on_text: Gets the text as it is verified.

        Raises:
            WireError: The cloud refuses for good.
            ContextLengthError: The prompt is longer than the device's context.
        """
        card = self._model.get()
        messages = anonymized.task.render(anonymized.messages)
        stage, tokenizer = model.shared_stage, model.tokenizer
        with self._drafting:
            prompt = tokenizer.encode(tokenizer.chat.render(messages), with_specials=True)
            rule = SamplingRule(
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
                seed=options.seed,
            )
            key = secrets.token_bytes(PREFIX_KEY_BYTES)
            session = DraftingSession(
                prompt,
                max_new_tokens=min(
                    options.max_output_tokens, max(1, stage.context_tokens - len(prompt))
                ),
                key=key,
                end_ids=tokenizer.end_ids,
            )
            writer = AnswerWriter(tokenizer, on_text)
            drafter = Drafter(stage, rule, name=_SESSION, clock=self._clock)
            channel = self._cloud.open_frames(anonymized, opening_of(card, rule, prefix_key=key))
            try:
                result = Verification(
                    session,
                    drafter,
                    channel,
                    costs=self._costs,
                    acceptance=self._acceptance,
                    clock=self._clock,
                    on_ids=writer.add,
                    on_exchange=self._on_exchange,
                    streaming_s=self._streaming_s,
                    finish_locally=self._finish_locally,
                ).run()
            finally:
                drafter.close()
                channel.close()
        if result.ending is Ending.MISMATCH:
            self._model.forget()
            self._acceptance = Acceptance()
        verified = (
            result.ids if result.unverified_from is None else result.ids[: result.unverified_from]
        )
        return VerifiedText(
            text=writer.finish(),
            num_verified_characters=len(tokenizer.decode(verified)),
            fingerprint=card.fingerprint,
            num_input_tokens=len(prompt),
            result=result,
        )
