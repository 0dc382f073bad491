"""What would change the planner's mind: how far each circumstance must move before another mode is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from partition.planning.cost import Scenario
from partition.planning.planner import Constraints, Weights, make_plan
from partition.planning.profile import Compute, Link

MOST = 64.0  # times a circumstance is moved up or down before we say that it does not matter
_STEP = 2**0.5
_PRECISION = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One circumstance, and where it turns the choice."""

    circumstance: str
    factor: float  # of today's value
    value: str  # there, with its unit
    mode: str  # that is better beyond


def turning_points(
    scenario: Scenario, constraints: Constraints | None = None, weights: Weights | None = None
) -> tuple[Turn, ...]:
    """Find the nearest change of each circumstance, up or down, that changes the chosen mode; nearest first."""
    constraints, weights = constraints or Constraints(), weights or Weights()

    def mode_at(changed: Scenario) -> str:
        chosen = make_plan(changed, constraints, weights).chosen
        return str(chosen.mode) if chosen else "nothing"

    today = mode_at(scenario)
    turns = []
    for words, change, describe in _CIRCUMSTANCES:
        for direction in (_STEP, 1 / _STEP):
            found = _search(lambda f, c=change: mode_at(c(scenario, f)), today, direction)  # type: ignore[misc]
            if found is not None:
                factor, mode = found
                turns.append(
                    Turn(
                        circumstance=words,
                        factor=factor,
                        value=describe(change(scenario, factor)),
                        mode=mode,
                    )
                )
    return tuple(sorted(turns, key=lambda turn: max(turn.factor, 1 / turn.factor)))


def in_words(turns: tuple[Turn, ...], most: int = 3) -> str:
    """One sentence with the nearest turning points."""
    if not turns:
        return f"Nothing that we looked at would change this within a factor of {MOST:.0f}."
    parts = [
        f"{turn.circumstance} {'rose' if turn.factor > 1 else 'fell'} to {turn.value} ({turn.mode})"
        for turn in turns[:most]
    ]
    return f"It would change if {'; or if '.join(parts)}."


def _search(
    mode_at: Callable[[float], str], today: str, direction: float
) -> tuple[float, str] | None:
    """Walk outwards to the first factor with another mode, then halve the bracket."""
    inside, outside = 1.0, direction
    while mode_at(outside) == today:
        inside, outside = outside, outside * direction
        if not 1 / MOST <= outside <= MOST:
            return None
    while max(inside / outside, outside / inside) > _PRECISION:
        middle = (inside * outside) ** 0.5
        if mode_at(middle) == today:
            inside = middle
        else:
            outside = middle
    return outside, mode_at(outside)


def _link(change: Callable[[Link, float], Link]) -> Callable[[Scenario, float], Scenario]:
    return lambda s, f: s if s.link is None else replace(s, link=change(s.link, f))


def _slower(compute: Compute | None, factor: float) -> Compute | None:
    if compute is None:
        return None
    a, b, c = compute.layer_prefill_s
    d, e = compute.layer_decode_s
    verify = compute.verify_s
    return replace(
        compute,
        layer_prefill_s=(a * factor, b * factor, c * factor),
        layer_decode_s=(d * factor, e * factor),
        ends_s=compute.ends_s * factor,
        queue_s=compute.queue_s * factor,
        verify_s=None if verify is None else (verify[0] * factor, verify[1] * factor),
    )


def _slower_edge(s: Scenario, f: float) -> Scenario:
    edge = _slower(s.edge, f)
    assert edge is not None
    return replace(s, edge=edge, edge_layers=_slower(s.edge_layers, f))


def _longer(s: Scenario, f: float) -> Scenario:
    tokens = max(1, round(s.workload.output_tokens * f))
    return replace(s, workload=replace(s.workload, output_tokens=tokens))


def _surer(s: Scenario, f: float) -> Scenario:
    """Scale the share that leaves the device, which has no natural unit otherwise."""
    sent = min(1 - s.routing.gated_share, (1 - s.routing.local_share) * f)
    local_share = max(0.0, min(1 - s.routing.gated_share, 1 - sent))
    return replace(s, routing=replace(s.routing, local_share=local_share))


_Circumstance = tuple[str, Callable[[Scenario, float], Scenario], Callable[[Scenario], str]]
_CIRCUMSTANCES: tuple[_Circumstance, ...] = (
    (
        "the round trip",
        _link(lambda link, f: replace(link, round_trip_s=link.round_trip_s * f)),
        lambda s: "" if s.link is None else f"{1000 * s.link.round_trip_s:.0f} ms",
    ),
    (
        "the uplink",
        _link(lambda link, f: replace(link, up_bytes_per_s=link.up_bytes_per_s * f)),
        lambda s: "" if s.link is None else f"{s.link.up_bytes_per_s * 8e-6:.2g} Mbit/s",
    ),
    (
        "the time of the cloud's model",
        lambda s, f: replace(s, cloud=_slower(s.cloud, f)),
        lambda s: (
            ""
            if s.cloud is None
            else f"{1000 * s.cloud.decode(s.workload.mean_context):.3g} ms a token"
        ),
    ),
    (
        "the time of the device's model",
        _slower_edge,
        lambda s: f"{1000 * s.edge.decode(s.workload.mean_context):.3g} ms a token",
    ),
    (
        "the cloud's price",
        lambda s, f: replace(
            s, prices=replace(s.prices, cloud_usd_per_s=s.prices.cloud_usd_per_s * f)
        ),
        lambda s: f"${3600 * s.prices.cloud_usd_per_s:.3g} an hour of compute",
    ),
    ("the length of answers", _longer, lambda s: f"{s.workload.output_tokens} tokens"),
    (
        "the share of requests that the device is unsure of",
        _surer,
        lambda s: f"{1 - s.routing.local_share:.0%}",
    ),
)
