"""One request by SPLIT: the first layers run here, the rest and the choice of every token in the cloud.

Only where the task's policy says ``allow_split = true``: hidden states are not anonymous. They are computed from the
anonymised text and handled as identifiable data. Possible only while both sides have the very same model file; whatever
prevents it is a sentence, and the request goes to the cloud as text.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.anonymize.anonymized import Anonymized
from edge_agent.cloud.cloud import GenerateOptions
from edge_agent.cloud.session_cloud import KnownModel, SessionCloud, opening_of
from edge_agent.extend.answer_writer import AnswerWriter
from edge_agent.extend.exchange import OnExchange
from edge_agent.extend.first_layers import FirstLayers
from edge_agent.extend.split import CHUNK_TOKENS, SplitEnding, SplitResult, SplitRun
from partition.extend.activations import Codec
from partition.extend.frames import PREFIX_KEY_BYTES
from partition.extend.split import SplittingSession
from partition.generation.sampling import SamplingRule
from partition.task import Task

_SESSION = "split"  # name of the answer's cache in the device's layers


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitText:
    """What came of one request."""

    text: str = field(repr=False)  # surrogates, not originals
    fingerprint: str  # of the whole model
    num_input_tokens: int
    result: SplitResult

    @property
    def is_whole(self) -> bool:
        """Whether the text goes to its end."""
        return self.result.ending is SplitEnding.COMPLETE


class SplitAnswers:
    """Answers requests by SPLIT. Thread-safe: one at a time.

    Args:
        cloud: Where the later layers are.
        layers: The first ones; this owns them.
        codec: How hidden states travel.
        chunk_tokens: Positions of the prompt in one frame.
        on_exchange: Told of each frame after the prompt, for the live plan.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        cloud: SessionCloud,
        layers: FirstLayers,
        *,
        codec: Codec = Codec.INT8,
        chunk_tokens: int = CHUNK_TOKENS,
        on_exchange: OnExchange = lambda exchanged: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud = cloud
        self._layers = layers
        self._codec = codec
        self._chunk_tokens = chunk_tokens
        self._on_exchange = on_exchange
        self._clock = clock
        self._model = KnownModel(cloud)

    @property
    def exposure(self) -> str:
        """What an answer of these gives away, for the log."""
        return (
            f"hidden states behind layer {self._layers.count} as {self._codec.name.lower()}, "
            "from which the anonymised text can be rebuilt"
        )

    def why_not(self, task: Task, options: GenerateOptions) -> str:
        """Why a request of this task cannot go by SPLIT, in one sentence; empty when it can.

        Raises:
            WireError: The cloud cannot be asked which model it has.
        """
        if not task.policy.allow_split:
            return "policy allow_split = false, and hidden states are not anonymous"
        if options.stop:
            return "stop strings are found in text, not in tokens"
        if options.model:
            return "another model than the cloud's default was asked for"
        card, ours = self._model.get(), self._layers
        if card.fingerprint != ours.fingerprint:
            return "the cloud runs another model than the layers on this device are of"
        if card.tokenizer_sha256 != ours.tokenizer.sha256:
            return "the cloud's model has another tokenizer than the layers on this device"
        if card.chat_template_sha256 != ours.tokenizer.chat.sha256:
            return "the cloud's model has another chat template than the layers on this device"
        return ""

    def answer(
        self,
        anonymized: Anonymized,
        options: GenerateOptions,
        *,
        on_text: Callable[[str], None] = lambda text: None,
    ) -> SplitText:
        """Answer one request for which :meth:`why_not` is empty.

        Args:
            anonymized: The request; nothing else is accepted.
            options: How to answer.
            on_text: Gets the text as it comes.

        Raises:
            WireError: The cloud refuses for good.
            ContextLengthError: The prompt is longer than the device's context.
        """
        card, layers = self._model.get(), self._layers
        tokenizer = layers.tokenizer
        messages = anonymized.task.render(anonymized.messages)
        rule = SamplingRule(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
        )
        with layers.turn:
            prompt = tokenizer.encode(tokenizer.chat.render(messages), with_specials=True)
            session = SplittingSession(
                prompt,
                max_new_tokens=min(
                    options.max_output_tokens, max(1, layers.stage.context_tokens - len(prompt))
                ),
                key=secrets.token_bytes(PREFIX_KEY_BYTES),
                end_ids=tokenizer.end_ids,
            )
            writer = AnswerWriter(tokenizer, on_text)
            channel = self._cloud.open_frames(
                anonymized, opening_of(card, rule, stage_start=layers.count, codec=self._codec)
            )
            try:
                result = SplitRun(
                    session,
                    layers.stage,
                    channel,
                    codec=self._codec,
                    clock=self._clock,
                    name=_SESSION,
                    chunk_tokens=self._chunk_tokens,
                    on_ids=writer.add,
                    on_exchange=self._on_exchange,
                ).run()
            finally:
                channel.close()
        if result.ending is SplitEnding.MISMATCH:
            self._model.forget()
        return SplitText(
            text=writer.finish(),
            fingerprint=card.fingerprint,
            num_input_tokens=len(prompt),
            result=result,
        )

    def close(self) -> None:
        """Free the layers."""
        self._layers.close()
