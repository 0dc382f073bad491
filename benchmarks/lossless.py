"""Whether VERIFY and SPLIT write what the cloud alone writes, with real weights over a way that loses, repeats and reorders frames.

SmolLM2-135M, float32 in the cloud and in the split's layers, the drafter in int8; 200 prompts from reports, half of them
greedy and half with a seed, each asked in all three ways at once, so that they share the engine's batches. A share of 1 is what is claimed; no timings. Taken in slices with ``--seconds``; what was taken
with other code of the two modes does not count, and the builds of the engine that answered are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks._cloud_pair import CloudPair, EdgeModel, cloud_pair
from benchmarks._kept import JOINT_MODES, Kept, build_of
from benchmarks._model_outputs import read_examples
from benchmarks._report_prompts import ids_of
from benchmarks.line import Line, Options
from edge_agent.cloud.frame_channel import FrameChannel
from edge_agent.extend.first_layers import FirstLayers
from edge_agent.extend.split import SplitEnding
from edge_agent.extend.verify import Ending
from partition.extend.activations import Codec
from partition.extend.draft_length import Acceptance, RoundCosts
from partition.extend.frames import Extend, Reply
from partition.generation.sampling import SamplingRule
from partition.stages.stage_range import Precision

MODEL = "smollm2-135m-instruct"
CUT = 10
LIMIT = 12
MOST_ATTEMPTS = 3  # at a prompt
LOST, REPEATED, OLD_FIRST = 0.02, 0.1, 0.1  # shares of frames
_COSTS = RoundCosts(draft_s=0.01, verify_base_s=0.1, verify_per_draft_s=0.005, round_trip_s=0.02)


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    count = 12 if options.quick else 200
    modes = build_of(*JOINT_MODES)
    kept = Kept(f"lossless-{MODEL}-{CUT}-{LIMIT}-{modes}", options.seconds)
    examples = read_examples(options.data / "cxr" / "dev.jsonl")
    edge = EdgeModel(MODEL)
    layers = EdgeModel(MODEL, precision=Precision.FLOAT32).layers(CUT)
    rows: list[dict[str, Any]] = []
    with (
        cloud_pair(MODEL, dtype="float32") as pair,
        pair.over(round_trip_s=0.005, bytes_per_s=1e7),
    ):
        check = _Check(pair, edge, layers)
        for number in range(count):
            findings = examples[number % len(examples)].text.split(". ")[0]
            text = f"Case {number}. Write the impression. Findings: {findings}."
            row = kept.get(str(number), partial(check.one, number, text))
            if row is None:
                break
            rows.append(row)
    for mode in ("verify", "split"):
        for kind in ("greedy", "seeded"):
            found = [row for row in rows if row["kind"] == kind]
            if found:
                yield Line(
                    case=f"same-text {mode} {kind} float32 {MODEL}",
                    ours=float(np.mean([row[mode] for row in found])),
                    unit="share of prompts",
                    runs=len(found),
                )
    if rows:
        yield Line(
            case="frames lost, repeated or answered late",
            ours=float(sum(row["faults"] for row in rows)),
            unit="frames",
            runs=sum(row["frames"] for row in rows),
        )
        yield Line(
            case="ways given up after two missed replies, and asked again",
            ours=float(sum(row.get("given_up", 0) for row in rows)),
            unit="prompts",
            runs=len(rows),
        )
        yield Line(
            case=f"builds of the engine, with code {modes} of the modes",
            ours=float(len({row["engine"] for row in rows})),
            unit="builds",
            runs=len(rows),
        )


class _Check:
    """Asks all three ways."""

    def __init__(self, pair: CloudPair, edge: EdgeModel, layers: FirstLayers) -> None:
        self._pair, self._edge, self._layers = pair, edge, layers
        self._acceptance = Acceptance()
        self._engine = build_of("cloud_service/engine", "partition/stages")

    def one(self, number: int, text: str) -> dict[str, Any]:
        """One prompt: is each answer the cloud's own? Asked again where a way was given up, as the agent has the rest streamed."""
        row: dict[str, Any] = {
            "verify": True,
            "split": True,
            "given_up": 0,
            "faults": 0,
            "frames": 0,
        }
        row |= {"kind": "greedy" if number % 2 == 0 else "seeded", "engine": self._engine}
        for attempt in range(MOST_ATTEMPTS):
            if self._ask(number, attempt, text, row):
                return row
            row["given_up"] += 1
        return row | {"verify": False, "split": False}

    def _ask(self, number: int, attempt: int, text: str, row: dict[str, Any]) -> bool:
        """Ask all three ways at once and add to a row; whether both answers went to their end."""
        rule = SamplingRule()
        if row["kind"] == "seeded":
            rule = SamplingRule(temperature=0.8, top_k=40, seed=number)
        prompt = ids_of(self._edge, text)
        faulty: list[FaultyFrames] = []

        def wrap(channel: FrameChannel) -> FrameChannel:
            seed = 2 * (number + 1000 * attempt) + len(faulty)
            faulty.append(FaultyFrames(channel, seed=seed))
            return faulty[-1]

        with ThreadPoolExecutor(max_workers=2) as pool:
            verifying = pool.submit(
                self._pair.verify,
                self._edge,
                prompt,
                LIMIT,
                costs=_COSTS,
                acceptance=self._acceptance,
                sampling=rule,
                wrap=wrap,
            )
            splitting = pool.submit(
                self._pair.split,
                self._layers,
                prompt,
                LIMIT,
                codec=Codec.FLOAT32,
                sampling=rule,
                wrap=wrap,
            )
            alone = self._pair.stream(text, LIMIT, sampling=rule).text
            (verified, verify_result), (split, split_result) = (
                verifying.result(),
                splitting.result(),
            )
        is_verified = verify_result.ending is Ending.VERIFIED
        is_split = split_result.ending is SplitEnding.COMPLETE
        # What is there of an answer that was given up must be the beginning of the cloud's own all the same.
        row["verify"] &= _is_same(verified.text, alone, is_whole=is_verified)
        row["split"] &= _is_same(split.text, alone, is_whole=is_split)
        row["faults"] += sum(channel.num_faults for channel in faulty)
        row["frames"] += sum(channel.num_frames for channel in faulty)
        return is_verified and is_split


def _is_same(text: str, alone: str, *, is_whole: bool) -> bool:
    return text == alone if is_whole else alone.startswith(text.rstrip("\ufffd"))


class FaultyFrames:
    """A frame channel that loses frames after the prompt, sends some twice, and gives old replies again before new ones."""

    def __init__(self, channel: FrameChannel, *, seed: int) -> None:
        self._channel = channel
        self._random = np.random.default_rng(seed)
        self._earlier: list[Reply] = []
        self._waiting: deque[Reply] = deque()
        self.num_faults = self.num_frames = 0

    @property
    def sent_bytes(self) -> int:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        return self._channel.sent_bytes

    @property
    def received_at(self) -> float:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        return self._channel.received_at

    @property
    def is_reachable(self) -> bool:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        return self._channel.is_reachable

    def send(self, frame: Extend) -> None:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        self.num_frames += 1
        if self._earlier and self._happens(LOST):
            return
        self._channel.send(frame)
        if self._happens(REPEATED):
            self._channel.send(frame)

    def receive(self, timeout_s: float) -> Reply | None:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        if self._waiting:
            return self._waiting.popleft()
        reply = self._channel.receive(timeout_s)
        if reply is None:
            return None
        if self._earlier and self._happens(OLD_FIRST):
            self._waiting.append(reply)
            reply = self._earlier[int(self._random.integers(len(self._earlier)))]
        self._earlier.append(reply)
        return reply

    def close(self) -> None:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        self._channel.close()

    def _happens(self, share: float) -> bool:
        happens = bool(self._random.random() < share)
        self.num_faults += happens
        return happens
