"""A service under load, over mutual TLS, its clients in another process: throughput, latencies, overload, a tenant that floods.

    load       24 callers, each of whom asks again when answered: the peak
    overload   requests come at random four times as often as the peak answers them, each with a deadline; goodput counts the
               tokens of answers that came in time
    flood      one tenant's two callers alone and beside 32 of another tenant, in turn; they want short answers, so that there
               are enough first tokens for a p99

The service has one thread for its model, so that the clients have a core of their own on a machine of two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from benchmarks._load import Client, Outcome, Requests, closed_loop, open_loop, quantile
from benchmarks._served_cloud import ServedCloud, served_cloud
from benchmarks.line import Line, Options

MODEL = "smollm2-135m-instruct"
CALLERS = 24
OVERLOAD = 4.0
FLOOD_CALLERS = 32
POLITE_CALLERS = 2
POLITE_TOKENS = 8
FLOOD_ROUNDS = 4
PAUSE_S = 0.3  # between two of their requests, else both would come together ever after
ALONE_S, BESIDE_S, RISE_S = 10.0, 20.0, 2.0  # of a round
NUM_TOKENS = 24
WORDS = (20, 100)
DEADLINE_S = 8.0
AMPLE_S = 60.0


def run(options: Options) -> Iterator[Line]:
    """Measure the three loads, one after the other."""
    seconds = 10.0 if options.quick else 20.0
    with served_cloud(MODEL) as cloud:
        yield from asyncio.run(_measure(cloud, seconds, quick=options.quick))


async def _measure(cloud: ServedCloud, seconds: float, *, quick: bool) -> list[Line]:
    polite = Client(cloud.address, cloud.credentials("polite"), "polite")
    flood = Client(cloud.address, cloud.credentials("flood"), "flood")
    lines: list[Line] = []

    def line(case: str, value: float, unit: str, runs: int, *, less: bool = False) -> None:
        lines.append(
            Line(case=f"{case} {MODEL}", ours=value, unit=unit, runs=runs, less_is_better=less)
        )

    def requests(seed: int) -> Requests:
        return Requests(seed, words=WORDS, num_tokens=NUM_TOKENS)

    await closed_loop(polite, requests(0), clients=CALLERS, seconds=5.0, deadline_s=AMPLE_S)
    started_s = time.perf_counter()
    peak = await closed_loop(
        polite, requests(1), clients=CALLERS, seconds=seconds, deadline_s=AMPLE_S
    )
    answered = [outcome for outcome in peak if outcome.error is None]
    peak_tokens_s = _goodput(answered, since_s=started_s, seconds=seconds)
    line(f"throughput {CALLERS} callers", peak_tokens_s, "tokens/s", len(answered))
    for q in (0.5, 0.99):
        first = quantile([outcome.first_s for outcome in answered if outcome.first_s], q)
        pace = quantile([outcome.pace_s for outcome in answered if outcome.pace_s], q)
        name = f"p{round(100 * q)}"
        line(f"TTFT {name} {CALLERS} callers", 1000 * first, "ms", len(answered), less=True)
        line(f"TPOT {name} {CALLERS} callers", 1000 * pace, "ms", len(answered), less=True)

    per_s = OVERLOAD * peak_tokens_s / NUM_TOKENS
    started_s = time.perf_counter() + DEADLINE_S  # from then on it is full
    over = await open_loop(
        polite,
        requests(2),
        per_s=per_s,
        seconds=DEADLINE_S + seconds,
        deadline_s=DEADLINE_S,
        seed=3,
    )
    good = [outcome for outcome in over if outcome.error is None]
    refused = [outcome for outcome in over if outcome.error is not None]
    goodput = _goodput(good, since_s=started_s, seconds=seconds)
    case = f"at {OVERLOAD:g}x overload, deadline {DEADLINE_S:g} s"
    line(f"goodput {case}, share of the peak", goodput / peak_tokens_s, "share", len(over))
    polite_ones = [one for one in refused if one.error is not None and one.error.retry_after_s]
    line(
        f"refused with a time to come back {case}",
        len(polite_ones) / len(refused),
        "share",
        len(refused),
    )
    for q in (0.5, 0.99):
        slow = quantile([outcome.total_s for outcome in polite_ones], q)
        line(f"refusal p{round(100 * q)} {case}", 1000 * slow, "ms", len(polite_ones), less=True)

    await asyncio.sleep(RISE_S)
    alone: list[Outcome] = []
    beside: list[Outcome] = []
    for at in range(2 if quick else FLOOD_ROUNDS):
        mine = Requests(10 + at, words=WORDS, num_tokens=POLITE_TOKENS)
        alone += await _polite_loop(polite, mine, ALONE_S)
        flooding = asyncio.create_task(
            closed_loop(
                flood,
                requests(20 + at),
                clients=FLOOD_CALLERS,
                seconds=RISE_S + BESIDE_S,
                deadline_s=AMPLE_S,
            )
        )
        await asyncio.sleep(RISE_S)
        beside += await _polite_loop(polite, mine, BESIDE_S)
        await flooding
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        quiet, loud = (
            quantile([outcome.first_s for outcome in some if outcome.first_s], q)
            for some in (alone, beside)
        )
        line(
            f"TTFT {name} {POLITE_CALLERS} callers alone", 1000 * quiet, "ms", len(alone), less=True
        )
        line(
            f"TTFT {name} beside {FLOOD_CALLERS} of a tenant that floods, times that alone",
            loud / quiet,
            "times",
            len(beside),
            less=True,
        )
    await polite.close()
    await flood.close()
    return lines


async def _polite_loop(client: Client, requests: Requests, seconds: float) -> list[Outcome]:
    return await closed_loop(
        client,
        requests,
        clients=POLITE_CALLERS,
        seconds=seconds,
        deadline_s=AMPLE_S,
        pause_s=PAUSE_S,
    )


def _goodput(outcomes: list[Outcome], *, since_s: float, seconds: float) -> float:
    """Tokens a second of the whole answers that ended in a window of time."""
    ends = [(outcome.sent_s + outcome.total_s, outcome.num_tokens) for outcome in outcomes]
    return sum(num for end_s, num in ends if 0 <= end_s - since_s < seconds) / seconds
