"""One OpenAI-compatible server as this service uses it: its client, what it can do, and its errors as ours.

The official client and not bare httpx: it owns the framing of event streams, the types and the tree of errors of this API,
and passes through what single servers add (``prompt_logprobs`` and ``token_ids`` of vLLM). It never tries again: retries
are the device's, in one place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import openai

from cloud_service.config import OpenAIConfig
from cloud_service.errors import ModelLoadError
from partition.generation.sampling import SamplingRule
from partition.task import Message
from protos.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    QuotaExceededError,
    UnavailableError,
)

RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
SEED_MASK: Final = (1 << 63) - 1  # of the servers' signed integers
_PROBE_IDS: Final = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What a server says of the model we use."""

    name: str
    context_tokens: int | None  # None: it does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """More of a streamed answer."""

    text: str = field(default="", repr=False)
    token_ids: tuple[int, ...] = field(default=(), repr=False)  # empty where the server tells none
    finish_reason: str | None = None
    input_tokens: int = 0  # of the last piece, as are the next two; 0: it does not say
    output_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the server's model says of the last positions of a text it was given."""

    log_probabilities: tuple[float, ...] = field(repr=False)  # of the ids that stand there
    likeliest_ids: tuple[int, ...] = field(repr=False)  # at the same positions
    next_id: int | None = field(repr=False)  # greedy, behind the last one


class CompletionServer:
    """Talks to one server. Event loop only."""

    def __init__(self, config: OpenAIConfig) -> None:
        # Its debug lines hold whole requests.
        for name in ("openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._config = config
        self._model = config.model
        key = config.api_key.get_secret_value() if config.api_key is not None else "none"
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=key,
            max_retries=0,
            timeout=httpx2.Timeout(config.answer_timeout_s, connect=config.connect_timeout_s),
        )

    async def find_model(self) -> ServedModel:
        """Ask which model answers; the configured one, or else the only one.

        Raises:
            ModelLoadError: The server does not answer, or serves other models.
        """
        try:
            listed = (await self._client.models.list()).data
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise ModelLoadError(
                f"the model server does not list its models ({type(error).__name__}); "
                "start it, and check `openai.base_url` and `openai.api_key`"
            ) from None
        wanted = self._config.model
        found = [model for model in listed if model.id == wanted or not wanted]
        if len(found) != 1:
            raise ModelLoadError(
                f"the model server lists {len(listed)} models; name one of them in `openai.model`"
            )
        self._model = found[0].id
        extra = found[0].model_extra or {}
        stated = extra.get("max_model_len")  # vLLM, SGLang
        if stated is None and isinstance(meta := extra.get("meta"), Mapping):  # llama.cpp
            stated = meta.get("n_ctx") or meta.get("n_ctx_train")
        return ServedModel(
            name=found[0].id, context_tokens=stated if isinstance(stated, int) else None
        )

    async def can_score(self) -> bool:
        """Whether it tells log-probabilities and ids of the positions of a prompt.

        Raises:
            ModelLoadError: The server does not answer at all.
        """
        try:
            # A server that has just started compiles at its first request: that is not a refusal.
            response = await self._complete(
                [_PROBE_IDS], rows=1, timeout_s=self._config.answer_timeout_s
            )
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise ModelLoadError(
                f"the model server lists its model and does not answer ({type(error).__name__}); "
                "wait until it has loaded, or raise `openai.answer_timeout_s`"
            ) from None
        except openai.APIError:
            return False
        choice = response.choices[0].model_extra or {}
        return len(choice.get("prompt_logprobs") or ()) == len(_PROBE_IDS) and bool(
            choice.get("token_ids")
        )

    async def answer_ids(
        self,
        ids: Sequence[int],
        *,
        sampling: SamplingRule,
        max_tokens: int,
        stop: Sequence[str],
        timeout_s: float,
    ) -> AsyncGenerator[Piece, None]:
        """Continue token ids; closing the generator ends the work on the server.

        Raises:
            WireError: The server refuses or fails.
        """
        with _translated():
            stream = await self._client.completions.create(
                model=self._model,
                prompt=list(ids),
                max_tokens=max_tokens,
                stop=list(stop) or None,
                stream=True,
                stream_options={"include_usage": True},
                timeout=timeout_s,
                extra_body={"return_token_ids": True, **_top_k(sampling)},
                **_sampling(sampling),
            )
            async with stream:
                async for chunk in stream:
                    choice = chunk.choices[0] if chunk.choices else None
                    yield _piece(choice, choice.text if choice else "", chunk.usage)

    async def answer_messages(
        self,
        messages: Sequence[Message],
        *,
        sampling: SamplingRule,
        max_tokens: int,
        stop: Sequence[str],
        timeout_s: float,
    ) -> AsyncGenerator[Piece, None]:
        """Answer a conversation by the server's own template; otherwise as :meth:`answer_ids`."""
        turns: Any = [{"role": message.role.value, "content": message.text} for message in messages]
        with _translated():
            stream = await self._client.chat.completions.create(
                model=self._model,
                messages=turns,
                max_tokens=max_tokens,
                stop=list(stop) or None,
                stream=True,
                stream_options={"include_usage": True},
                timeout=timeout_s,
                extra_body=_top_k(sampling),
                **_sampling(sampling),
            )
            async with stream:
                async for chunk in stream:
                    choice = chunk.choices[0] if chunk.choices else None
                    yield _piece(choice, choice.delta.content if choice else "", chunk.usage)

    async def score(
        self, prompts: Sequence[Sequence[int]], *, rows: Sequence[int], timeout_s: float
    ) -> tuple[Score, ...]:
        """Ask what the model makes of the last positions of some texts.

        Args:
            prompts: Token ids each.
            rows: How many of the last positions of each are wanted; 0: only what follows.
            timeout_s: For all of them together.

        Raises:
            WireError: The server refuses or fails.
        """
        with _translated():
            response = await self._complete(prompts, rows=max(rows), timeout_s=timeout_s)
            choices = sorted(response.choices, key=lambda choice: choice.index)
            return tuple(
                _score(choice.model_extra or {}, ids, count)
                for choice, ids, count in zip(choices, prompts, rows, strict=True)
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _complete(
        self, prompts: Sequence[Sequence[int]], *, rows: int, timeout_s: float
    ) -> Any:
        # Positions are scored only where some are wanted: a server reads nothing of its prefix cache for those.
        extra: dict[str, Any] = {"return_token_ids": True}
        if rows:
            extra["prompt_logprobs"] = 1
        return await self._client.completions.create(
            model=self._model,
            prompt=[list(ids) for ids in prompts],
            max_tokens=1,
            temperature=0.0,
            timeout=timeout_s,
            extra_body=extra,
        )


def _sampling(rule: SamplingRule) -> dict[str, Any]:
    if rule.temperature == 0:
        return {"temperature": 0.0}
    return {"temperature": rule.temperature, "top_p": rule.top_p, "seed": rule.seed & SEED_MASK}


def _top_k(rule: SamplingRule) -> dict[str, int]:
    return {"top_k": rule.top_k} if rule.temperature and rule.top_k else {}


def _piece(choice: Any, text: str | None, usage: Any) -> Piece:
    extra = {} if choice is None else choice.model_extra or {}
    details = getattr(usage, "prompt_tokens_details", None)
    return Piece(
        text=text or "",
        token_ids=tuple(extra.get("token_ids") or ()),
        finish_reason=None if choice is None else choice.finish_reason,
        input_tokens=getattr(usage, "prompt_tokens", None) or 0,
        output_tokens=getattr(usage, "completion_tokens", None) or 0,
        cached_tokens=getattr(details, "cached_tokens", None) or 0,
    )


def _score(extra: Mapping[str, Any], ids: Sequence[int], count: int) -> Score:
    """Read one choice: ``prompt_logprobs`` has for each position its own id, and the likeliest where that is another."""
    by_position = (extra.get("prompt_logprobs") or ())[len(ids) - count :] if count else ()
    next_ids = extra.get("token_ids") or ()
    if len(by_position) != count:
        raise InternalError("the model server leaves positions out; it cannot verify drafts")
    try:
        own = tuple(
            float(entry[str(token)]["logprob"])
            for entry, token in zip(by_position, ids[len(ids) - count :], strict=True)
        )
        likeliest = tuple(
            int(min(entry, key=lambda token: int(entry[token]["rank"]))) for entry in by_position
        )
        return Score(
            log_probabilities=own,
            likeliest_ids=likeliest,
            next_id=int(next_ids[0]) if next_ids else None,
        )
    except (KeyError, TypeError, ValueError):
        raise InternalError("the model server's log-probabilities are not understood") from None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Tell the client's errors as ours. What a server says may repeat the request, so none of it is passed on."""
    try:
        yield
    except openai.APITimeoutError:
        raise DeadlineExceededError("the model server took too long; allow more time") from None
    except (openai.APIConnectionError, httpx2.HTTPError):
        raise UnavailableError(
            "the model server cannot be reached; try again", retry_after_s=RETRY_S
        ) from None
    except openai.RateLimitError as error:
        raise QuotaExceededError(
            "the model server has too much to do; try again later",
            retry_after_s=_retry_after_s(error),
            quota="model_server",
        ) from None
    except (openai.BadRequestError, openai.UnprocessableEntityError):
        raise InvalidRequestError(
            "the model server does not take this request; shorten it, or ask for less"
        ) from None
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError):
        raise UnavailableError(
            "the model server refuses this service; its operator checks `openai` in the configuration",
            retry_after_s=MAX_RETRY_S,
        ) from None
    except openai.APIStatusError:
        raise UnavailableError(
            "the model server failed; try again", retry_after_s=RETRY_S
        ) from None
    except openai.APIError:
        raise InternalError("the model server broke the answer off; report its id") from None


def _retry_after_s(error: openai.APIStatusError) -> float:
    try:
        stated_s = float(error.response.headers.get("retry-after", RETRY_S))
    except ValueError:  # a date
        return RETRY_S
    return min(max(stated_s, 0.001), MAX_RETRY_S)
