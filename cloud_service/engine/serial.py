"""The simplest engine: one job after the other, on one thread. The yardstick for the batching one."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from cloud_service.engine.job import Job, JobEnd, JobOutcome
from partition.generation.sampling import choose, log_softmax
from protos.errors import QuotaExceededError, UnavailableError

logger = logging.getLogger(__name__)

QUEUE_RETRY_S = 1.0


class SerialEngine:
    """Works on one job at a time, in the order in which they came; see :class:`cloud_service.engine.job.Engine`."""

    def __init__(self, module: Any, *, max_waiting: int, threads: int) -> None:
        self._module = module
        self._threads = threads
        self._device = next(module.parameters()).device
        self._waiting: queue.Queue[tuple[Job, float] | None] = queue.Queue(maxsize=max_waiting)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="tandem-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """See :class:`Engine`."""
        if self._is_closed:
            raise UnavailableError("this server is shutting down; call again", retry_after_s=1.0)
        try:
            self._waiting.put_nowait((job, time.monotonic()))
        except queue.Full:
            raise QuotaExceededError(
                "too many requests wait for the model; try again later",
                retry_after_s=QUEUE_RETRY_S,
                quota="queued_requests",
            ) from None

    @property
    def num_waiting(self) -> int:
        """See :class:`Engine`."""
        return self._waiting.qsize()

    @property
    def capacity_tokens(self) -> int:
        """See :class:`Engine`."""
        tokens: int = self._module.config.get_text_config().max_position_embeddings
        return tokens

    def close(self) -> None:
        """See :class:`Engine`."""
        self._is_closed = True
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread by itself
            self._waiting.put_nowait(None)
        self._thread.join()

    def _run(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        while (entry := self._waiting.get()) is not None and not self._is_closed:
            job, submitted_s = entry
            self._work_on(job, submitted_s)
        if entry is not None:
            entry[0].listener.on_end(JobOutcome(end=JobEnd.CLOSED))
        with contextlib.suppress(queue.Empty):
            while True:
                if (entry := self._waiting.get_nowait()) is not None:
                    entry[0].listener.on_end(JobOutcome(end=JobEnd.CLOSED))

    def _work_on(self, job: Job, submitted_s: float) -> None:
        started_s = time.monotonic()
        scores: tuple[float, ...] = ()
        try:
            with torch.inference_mode():
                if job.labels:
                    end, scores = self._score(job)
                else:
                    end = self._generate(job)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            # Its text may hold content of tensors.
            logger.error("a job failed in the engine: %s", type(error).__name__)
            end = JobEnd.FAILED
        ended_s = time.monotonic()
        job.listener.on_end(
            JobOutcome(
                end=end,
                compute_us=round((ended_s - started_s) * 1e6),
                queue_us=round((started_s - submitted_s) * 1e6),
                label_log_probabilities=scores,
            )
        )

    def _generate(self, job: Job) -> JobEnd:
        cache = DynamicCache(config=self._module.config)
        ids = list(job.prompt_ids + job.answer_ids)
        feed = ids
        for _ in range(job.max_output_tokens - len(job.answer_ids)):
            if (end := self._interruption(job)) is not None:
                return end
            logits = self._forward(feed, cache, keep=1)[-1]
            token = choose(logits, job.sampling, position=len(ids))
            if token in job.end_ids:
                return JobEnd.END_OF_SEQUENCE
            ids.append(token)
            feed = [token]
            if job.listener.on_token(token):
                return JobEnd.LISTENER
        return JobEnd.LENGTH

    def _score(self, job: Job) -> tuple[JobEnd, tuple[float, ...]]:
        if (end := self._interruption(job)) is not None:
            return end, ()
        cache = DynamicCache(config=self._module.config)
        first = log_softmax(self._forward(list(job.prompt_ids), cache, keep=1)[-1])
        scores = []
        for label in job.labels:
            score = float(first[label[0]])
            if len(label) > 1:
                if (end := self._interruption(job)) is not None:
                    return end, ()
                rows = self._forward(list(label[:-1]), cache, keep=len(label) - 1)
                score += sum(
                    float(log_softmax(row)[token])
                    for row, token in zip(rows, label[1:], strict=True)
                )
                cache.crop(1 - len(label))  # a negative number takes positions off
            scores.append(score)
        return JobEnd.SCORED, tuple(scores)

    def _interruption(self, job: Job) -> JobEnd | None:
        if self._is_closed:
            return JobEnd.CLOSED
        if job.is_cancelled:
            return JobEnd.CANCELLED
        if time.monotonic() > job.deadline_s:
            return JobEnd.DEADLINE
        return None

    def _forward(
        self, ids: list[int], cache: DynamicCache, *, keep: int
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        inputs = torch.tensor([ids], device=self._device)
        output = self._module(
            input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep
        )
        logits: np.ndarray[tuple[int, int], np.dtype[np.float32]] = (
            output.logits[0].float().cpu().numpy()
        )
        return logits
