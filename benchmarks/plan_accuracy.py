"""How far the cost model is from what really happens, and whether the planner picks what is really fastest.

Predicted against measured time to the first token and of the whole answer, for local, cloud and verify, over round trips and
bandwidths; device and cloud on this machine, one thread each. The survival of drafts is measured on other prompts first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks._cloud_pair import CloudPair, EdgeModel, Timing, cloud_pair
from benchmarks._model_outputs import read_examples
from benchmarks.line import Line, Options
from benchmarks.verify import PROMPT
from partition.planning.cost import (
    Mode,
    Prediction,
    Routing,
    Scenario,
    Workload,
    cloud,
    local,
    round_costs,
    verify,
)
from partition.planning.profile import Compute, Link
from partition.task import Message, Role

MODEL = "smollm2-135m-instruct"
OUTPUT_TOKENS = 24
_NEAR = 1.05  # a choice this close to the best is as good


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    trips = (0, 50) if options.quick else (0, 20, 50, 100)
    rates = (10,) if options.quick else (1, 10, 100)
    count = 2 if options.quick else 5
    examples = read_examples(options.data / "cxr" / "dev.jsonl")
    texts = [PROMPT.format(text=example.text) for example in examples]
    edge = EdgeModel(MODEL)
    errors: list[float] = []
    is_near: list[bool] = []
    with cloud_pair(MODEL) as pair:
        with pair.over(round_trip_s=0.0, bytes_per_s=1e9):
            device, server = edge.profile(), pair.profile(vocab_size=edge.tokenizer.vocab_size)
            survival = _survival(pair, edge, device, server, texts[20 : 20 + count])
        for trip_ms in trips:
            for mbit in rates:
                rate = mbit * 125_000.0
                with pair.over(round_trip_s=trip_ms / 1000, bytes_per_s=rate):
                    link = Link(
                        round_trip_s=pair.round_trip_s(), up_bytes_per_s=rate, down_bytes_per_s=rate
                    )
                    cell = _Cell(pair, edge, device, server, link, survival)
                    measured = [cell.measure(text) for text in texts[:count]]
                where = f"{trip_ms} ms {mbit} Mbit/s"
                for mode in (Mode.LOCAL, Mode.CLOUD, Mode.VERIFY):
                    wrong = [abs(found[mode][0] / found[mode][1] - 1) for found in measured]
                    errors += wrong
                    yield Line(
                        case=f"error {mode} {where} {MODEL}",
                        ours=float(np.median(wrong)),
                        unit="share of the measured time",
                        runs=count,
                    )
                is_near += [_is_near_best(found) for found in measured]
    yield Line(case="error median", ours=float(np.median(errors)), unit="share", runs=len(errors))
    yield Line(
        case="error p90", ours=float(np.quantile(errors, 0.9)), unit="share", runs=len(errors)
    )
    yield Line(
        case="choice within 5 % of the fastest",
        ours=float(np.mean(is_near)),
        unit="share of cells",
        runs=len(is_near),
    )


class _Cell:
    """One link, and the predictions for it."""

    def __init__(
        self,
        pair: CloudPair,
        edge: EdgeModel,
        device: Compute,
        server: Compute,
        link: Link,
        survival: tuple[float, ...],
    ) -> None:
        self._pair, self._edge, self._link = pair, edge, link
        self._device, self._server, self._survival = device, server, survival

    def measure(self, text: str) -> dict[Mode, tuple[float, float]]:
        """Predicted and measured seconds of one answer, by mode."""
        prompt = prompt_of(self._edge, text)
        costs = round_costs(self._scenario(len(prompt), OUTPUT_TOKENS))
        timings = {
            Mode.LOCAL: self._edge.write(prompt, OUTPUT_TOKENS),
            Mode.CLOUD: self._pair.stream(text, OUTPUT_TOKENS),
            Mode.VERIFY: self._pair.verify(self._edge, prompt, OUTPUT_TOKENS, costs=costs)[0],
        }
        return {
            mode: (self._predict(mode, len(prompt), timing), timing.total_s)
            for mode, timing in timings.items()
        }

    def _predict(self, mode: Mode, prompt_tokens: int, timing: Timing) -> float:
        predict = {Mode.LOCAL: local, Mode.CLOUD: cloud, Mode.VERIFY: verify}[mode]
        found: Prediction = predict(self._scenario(prompt_tokens, max(1, timing.num_tokens)))
        return found.total_s

    def _scenario(self, prompt_tokens: int, output_tokens: int) -> Scenario:
        return Scenario(
            edge=self._device,
            cloud=self._server,
            link=self._link,
            workload=Workload(prompt_tokens=prompt_tokens, output_tokens=output_tokens),
            routing=Routing(local_quality=0.95),
            survival=self._survival,
        )


def prompt_of(edge: EdgeModel, text: str) -> tuple[int, ...]:
    """Token ids of a prompt, as both sides make them."""
    messages = (Message(role=Role.USER, text=text),)
    return edge.tokenizer.encode(edge.tokenizer.chat.render(messages), with_specials=True)


def _survival(
    pair: CloudPair, edge: EdgeModel, device: Compute, server: Compute, texts: list[str]
) -> tuple[float, ...]:
    """S_1 .. S_16 as a geometric row through the measured acceptance."""
    link = Link(round_trip_s=0.002, up_bytes_per_s=1e9, down_bytes_per_s=1e9)
    stood = judged = 0
    for text in texts:
        prompt = prompt_of(edge, text)
        scenario = Scenario(
            edge=device,
            cloud=server,
            link=link,
            workload=Workload(prompt_tokens=len(prompt), output_tokens=OUTPUT_TOKENS),
        )
        _, result = pair.verify(edge, prompt, OUTPUT_TOKENS, costs=round_costs(scenario))
        stood += result.num_accepted
        # In a round with a refusal one draft was judged and refused; the rest of it was not judged.
        judged += min(result.num_drafted, result.num_accepted + result.num_rounds)
    acceptance = (stood + 1) / (judged + 2)
    return tuple(acceptance**length for length in range(1, 17))


def _is_near_best(found: dict[Mode, tuple[float, float]]) -> bool:
    """Whether the mode predicted fastest was within 5 % of the one measured fastest."""
    chosen = min(found, key=lambda mode: found[mode][0])
    return found[chosen][1] <= _NEAR * min(measured for _, measured in found.values())
