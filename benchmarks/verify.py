"""VERIFY against the cloud's own streaming and against one token a round trip: tokens a second over a shaped link.

Both sides run on this machine, one thread each, over mutual TLS; report impressions, greedy. The text must be the cloud's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks._cloud_pair import CloudPair, EdgeModel, Timing, cloud_pair, no_drafts
from benchmarks._model_outputs import read_examples
from benchmarks.line import Line, Options
from partition.extend.draft_length import RoundCosts
from partition.planning.cost import Scenario, Workload, round_costs
from partition.planning.profile import Link
from partition.task import Message, Role

PAIRS = {
    False: ("qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"),
    True: ("smollm2-135m-instruct", "smollm2-135m-instruct"),
}
PROMPT = (
    "Write the impression of this chest X-ray report in one or two sentences.\nFindings: {text}"
)
BYTES_PER_S = 1.25e6  # ten megabits


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    small, large = PAIRS[options.quick]
    examples = read_examples(options.data / "cxr" / "dev.jsonl")[: 2 if options.quick else 12]
    texts = [PROMPT.format(text=example.text) for example in examples]
    limit = 24 if options.quick else 48
    edge = EdgeModel(small)
    # Identity is a matter of float32: in bfloat16 near ties turn with the shape of the batch.
    with cloud_pair(large, dtype="float32" if options.quick else "auto") as pair:
        with pair.over(round_trip_s=0.0, bytes_per_s=1e9):
            device, cloud = edge.profile(), pair.profile(vocab_size=edge.tokenizer.vocab_size)
        for trip_ms in (50,) if options.quick else (0, 20, 50, 100):
            with pair.over(round_trip_s=trip_ms / 1000, bytes_per_s=BYTES_PER_S):
                link = Link(
                    round_trip_s=pair.round_trip_s(),
                    up_bytes_per_s=BYTES_PER_S,
                    down_bytes_per_s=BYTES_PER_S,
                )
                costs = round_costs(
                    Scenario(
                        edge=device,
                        cloud=cloud,
                        link=link,
                        workload=Workload(prompt_tokens=200, output_tokens=limit),
                    )
                )
                yield from _compare(pair, edge, texts, limit, costs, f"{trip_ms} ms {large}")


def _compare(
    pair: CloudPair, edge: EdgeModel, texts: list[str], limit: int, costs: RoundCosts, where: str
) -> Iterator[Line]:
    verified: list[Timing] = []
    streamed: list[Timing] = []
    stepped: list[Timing] = []
    accepted = drafted = rounds = same = 0
    for text in texts:
        messages = (Message(role=Role.USER, text=text),)
        prompt = edge.tokenizer.encode(edge.tokenizer.chat.render(messages), with_specials=True)
        timing, result = pair.verify(edge, prompt, limit, costs=costs)
        verified.append(timing)
        streamed.append(pair.stream(text, limit))
        stepped.append(pair.verify(edge, prompt, limit, costs=no_drafts(costs))[0])
        accepted, drafted = accepted + result.num_accepted, drafted + result.num_drafted
        rounds += result.num_rounds
        same += timing.text.strip() == streamed[-1].text.strip()
    ours = _rate(verified)
    peers = (("cloud streaming", streamed), ("one token a round trip", stepped))
    for peer, timings in peers:
        yield Line(
            case=f"verify {where} against {peer}",
            ours=ours,
            theirs=_rate(timings),
            peer=f"tandem {peer}",
            unit="tokens/s",
            runs=len(texts),
        )
    tokens = sum(timing.num_tokens for timing in verified)
    yield Line(
        case=f"accepted {where}",
        ours=accepted / max(drafted, 1),
        unit="share of drafts",
        runs=drafted,
    )
    yield Line(case=f"tokens-a-pass {where}", ours=tokens / rounds, unit="tokens", runs=rounds)
    yield Line(case=f"same-text {where}", ours=same / len(texts), unit="share", runs=len(texts))


def _rate(timings: list[Timing]) -> float:
    """Median tokens a second."""
    return float(np.median([timing.num_tokens / timing.total_s for timing in timings]))
