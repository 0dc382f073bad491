"""The small model on the device: answers a task's prompt, with everything that tells how sure it is."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.answer_desk import AnswerDesk
from edge_agent.errors import RequestStoppedError
from edge_agent.flow import LabelScore, LocalAnswer, Request
from edge_agent.locked_stage import LockedStage
from partition.task import Message, Task, TaskKind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from partition.generation.choice import Choice
    from partition.generation.generation import Generator
    from partition.generation.prefill import Prefill
    from partition.generation.writing import Generation
    from partition.stages.onnx_stage import OnnxStage
    from partition.stages.stage_range import Precision
    from partition.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_NUM_SESSIONS: Final = 2  # conversations whose caches are kept: a task's, and a chat's beside it
MAX_BATCH: Final = 8  # answers written at once, where nothing else is set


class LocalModel:
    """One model that answers many callers at once: what waits together runs together. Thread-safe."""

    def __init__(
        self,
        stage: OnnxStage,
        tokenizer: Tokenizer,
        generator: Generator,
        *,
        max_batch: int = 1,
        origin: tuple[object, ...] = (),
    ) -> None:
        """Put the parts together; :meth:`open` makes them."""
        import onnxruntime

        self.origin = origin  # of :func:`origin_of`
        self.max_batch = max_batch  # answers written at once
        self._lock = threading.Lock()  # of the stage, for each run
        self._owning = threading.Lock()
        self._num_owners = 1
        self._is_closed = False
        self._stage = stage
        self._tokenizer = tokenizer
        self._desk = AnswerDesk(generator, self._lock, max_batch=max_batch)
        parts = (
            stage.fingerprint,
            tokenizer.sha256,
            tokenizer.chat.sha256,
            onnxruntime.__version__,
        )
        self.fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        threads: int,
        max_memory_mb: int | None,
        context_tokens: int,
        cache_dir: Path,
        adapter: Path | None = None,
        precision: Precision | None = None,
        beside: LocalModel | None = None,
        max_batch: int = MAX_BATCH,
    ) -> LocalModel:
        """Load a model; the first time, build its graph into the cache.

        Args:
            path: A GGUF file, or a folder with ``config.json``, safetensors and ``tokenizer.json``.
            threads: Threads the model may use.
            max_memory_mb: Refuse a model that would need more, its caches at full length included; None: no limit.
            context_tokens: Longest prompt and answer together; at most what the model was trained for.
            cache_dir: Where built graphs are kept.
            adapter: Folder of a low-rank adapter that is added to the weights; None: none.
            precision: What to compute in; None: the default.
            beside: A model that answers meanwhile; its tokenizer is taken over if it is the same.
            max_batch: Answers to write at once; fewer where ``max_memory_mb`` has no room for the caches of so many.

        Raises:
            ModelFileError: The file is damaged, or the cache cannot be written.
            MemoryLimitError: It would need more than ``max_memory_mb``.
        """
        from partition.generation.generation import Generator
        from partition.stages.onnx_stage import OnnxStage
        from partition.stages.stage_range import Precision
        from partition.text.tokenizer import Tokenizer
        from partition.weights.adapter import AdaptedWeights
        from partition.weights.weight_source import open_weights

        source = open_weights(path)
        if adapter is not None:
            source = AdaptedWeights.open(source, adapter)
        tokenizer = Tokenizer.open(path, like=beside.tokenizer if beside is not None else None)
        stage = OnnxStage.open(
            source,
            precision=precision or Precision.INT8,
            threads=threads,
            context_tokens=context_tokens,
            cache_dir=cache_dir,
            max_memory_bytes=None if max_memory_mb is None else max_memory_mb << 20,
            num_sessions=_NUM_SESSIONS,
            max_sessions=_NUM_SESSIONS + max_batch - 1,
        )
        num_at_once = stage.num_sessions - _NUM_SESSIONS + 1
        if num_at_once < max_batch:
            logger.info(
                "%d answers are written at once, not %d: max_memory_mb has room for the caches of so many",
                num_at_once,
                max_batch,
            )
        generator = Generator(
            stage,
            tokenizer,
            context_tokens=stage.context_tokens,
            num_sessions=_NUM_SESSIONS,
            max_batch=num_at_once,
        )
        origin = origin_of(
            path,
            adapter,
            threads=threads,
            max_memory_mb=max_memory_mb,
            context_tokens=context_tokens,
            max_batch=max_batch,
        )
        return cls(stage, tokenizer, generator, max_batch=num_at_once, origin=origin)

    def answer(
        self,
        messages: tuple[Message, ...],
        task: Task,
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> LocalAnswer:
        """Answer one request.

        Args:
            messages: The prompt, as :meth:`partition.task.Task.render` makes it.
            task: Decides between choosing a label and writing text.
            request: Its sampling settings and limits; its text is not looked at.
            on_text: Called with each piece of the answer as it comes, in this thread.
            cancel: Set by another thread when nobody waits any more.

        Raises:
            ContextLengthError: The prompt is longer than the context.
            RequestStoppedError: ``cancel`` was set before the answer began.
            ModelFileError: The chat template refuses the order of the roles.
        """
        from partition.generation.reading import StoppedError

        prompt = self._tokenizer.chat.render(messages)
        ids = self._tokenizer.encode(prompt, with_specials=True)
        try:
            if task.kind is TaskKind.CLASSIFY:
                candidates = self._label_ids(task)
                choice = self._desk.choose(ids, candidates, cancel=cancel)
                answer = _chosen(task, candidates, choice)
                if on_text is not None:
                    on_text(answer.text)
                return answer
            return _written(*self._write(ids, task, request, on_text, cancel))
        except StoppedError as error:
            raise RequestStoppedError(
                "the request was given up before the model answered; ask again"
            ) from error

    @property
    def shared_stage(self) -> LockedStage:
        """The model itself, for a drafter: locked for each call only, so that others answer while it waits."""
        return LockedStage(self._stage, self._lock, is_open=lambda: not self._is_closed)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer with its chat template; may be shared between threads."""
        return self._tokenizer

    def share(self) -> LocalModel:
        """Return this model for one more owner; each closes it once, and the last frees it."""
        with self._owning:
            self._num_owners += 1
        return self

    def close(self) -> None:
        """Free memory and threads, after the answers that are being written. A call more than owners does nothing."""
        with self._owning:
            self._num_owners -= 1
            if self._num_owners > 0:
                return
        self._desk.close()
        with self._lock:
            self._is_closed = True
            self._stage.close()

    def _label_ids(self, task: Task) -> list[tuple[int, ...]]:
        candidates = [self._tokenizer.encode(label) for label in task.labels]
        # Where one label begins another ("no", "no change") only the end of the turn tells them apart.
        is_prefix = any(
            one != other and other[: len(one)] == one for one in candidates for other in candidates
        )
        if is_prefix:
            end = (min(self._tokenizer.end_ids),)
            candidates = [(*candidate, *end) for candidate in candidates]
        return candidates

    def _write(
        self,
        ids: Sequence[int],
        task: Task,
        request: Request,
        on_text: Callable[[str], None] | None,
        cancel: threading.Event | None,
    ) -> tuple[Prefill, Generation]:
        from partition.generation.sampling import SamplingRule
        from partition.generation.writing import Assignment

        limit = task.limits.max_output_tokens
        if request.max_output_tokens is not None:
            limit = min(limit, request.max_output_tokens)
        assignment = Assignment(
            ids=ids,
            rule=SamplingRule(
                temperature=request.temperature, top_p=request.top_p, seed=request.seed
            ),
            max_new_tokens=limit,
            stops=request.stop,
            on_text=on_text,
            cancel=cancel,
        )
        return self._desk.write(assignment)


def _chosen(task: Task, candidates: Sequence[Sequence[int]], choice: Choice) -> LocalAnswer:
    sums = [sum(log_probabilities) for log_probabilities in choice.scores]
    best = max(range(len(sums)), key=sums.__getitem__)  # the first of equals
    return LocalAnswer(
        text=task.labels[best],
        token_log_probabilities=choice.scores[best],
        label_scores=tuple(
            LabelScore(label=label, log_probability=total)
            for label, total in zip(task.labels, sums, strict=True)
        ),
        first_entropy=_entropy(choice.logits),
        num_input_tokens=choice.num_tokens,
        num_cached_tokens=choice.num_cached_tokens,
        num_output_tokens=len(candidates[best]),
        hidden=tuple(choice.features.tolist()),
    )


def _written(prefill: Prefill, written: Generation) -> LocalAnswer:
    return LocalAnswer(
        text=written.text,
        token_log_probabilities=written.log_probabilities,
        first_entropy=_entropy(prefill.logits),
        num_input_tokens=prefill.num_tokens,
        num_cached_tokens=prefill.num_cached_tokens,
        num_output_tokens=len(written.ids),
        truncated=written.truncated,
        hidden=tuple(prefill.features.tolist()),
    )


def origin_of(
    path: Path,
    adapter: Path | None,
    *,
    threads: int,
    max_memory_mb: int | None,
    context_tokens: int,
    max_batch: int = MAX_BATCH,
) -> tuple[object, ...]:
    """Say what a model is opened from and how: equal only for the same files, under whatever name.

    Releases share files by hard links, so one that brings only a certificate has the model of the one before.
    """
    files = []
    for place in (path, adapter):
        members = () if place is None else sorted(place.iterdir()) if place.is_dir() else (place,)
        stats = [(member.name, member.stat()) for member in members]
        # The model's own file may have any name; the members of a folder may not.
        names = [name if place is not None and place.is_dir() else "" for name, _ in stats]
        ids = [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for _, stat in stats]
        files.append(tuple(zip(names, ids, strict=True)))
    return (*files, threads, max_memory_mb, context_tokens, max_batch)


def _entropy(logits: npt.NDArray[np.float32]) -> float:
    """Nats, of the distribution of the first answer token."""
    import numpy as np

    from partition.generation.sampling import log_softmax

    log_probabilities = log_softmax(logits)
    return float(-(np.exp(log_probabilities) * log_probabilities).sum())
