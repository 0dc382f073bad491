"""What each way to run a request costs: a pure function of profile, link and workload.

TTFT is the time to the first token, TPOT the time of each further one; the whole takes TTFT + (M - 1) TPOT. S prompt
tokens, M output tokens, k layers on the device, R round trip, U bytes a second up, w bytes of a hidden row, o bytes of
framing. The decisive line: the cloud streams, so CLOUD pays R once a request, SPLIT pays it for every token, and VERIFY
once a round of up to 1 + gamma tokens.

Exposure is the share of the anonymised prompt that the cloud can read: 0 on the device, 1 for text, for token ids, and
for hidden states at any depth and in any codec, from which the text can be rebuilt (2510.15511, 2507.16372).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

from partition.extend.activations import Codec, row_bytes
from partition.extend.draft_length import (
    BYTES_PER_ID,
    RoundCosts,
    best_length,
    geometric,
)
from partition.planning.profile import Compute, Link, Power, Prices
from partition.planning.rounds import expected_rounds

TEXT_BYTES = 4.5  # of text a token, English
MESSAGE_BYTES = 90.0  # of gRPC and TLS framing a message
FIRST_GUESS_ACCEPTANCE = 0.8  # of a draft, until it has been measured


class Mode(enum.StrEnum):
    """A way to run the requests of a task."""

    LOCAL = "local"  # the device's model alone
    CASCADE = "cascade"  # the device's model first, the cloud where it is unsure
    CLOUD = "cloud"  # the cloud's model alone, streaming
    VERIFY = "verify"  # the device drafts, the cloud verifies
    SPLIT = "split"  # layers [0, k) on the device, the rest in the cloud


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a typical request of the task is."""

    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError("a request has at least one token in and one out")

    @property
    def mean_context(self) -> float:
        """Positions in the cache halfway through the answer."""
        return self.prompt_tokens + self.output_tokens / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What the routing records say about the task."""

    local_share: float = 0.8  # of all requests, answered by the device in a cascade
    gated_share: float = 0.0  # of all requests, sent on without a local answer
    local_quality: float = 0.85  # share of right answers of the device's model alone
    cascade_quality: float = 0.95
    cloud_quality: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.local_share <= 1 or not 0 <= self.gated_share <= 1 - self.local_share:
            raise ValueError("local and gated shares are parts of all requests, and do not overlap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a prediction depends on."""

    edge: Compute
    edge_layers: Compute | None = None
    cloud: Compute | None = None
    link: Link | None = None
    power: Power = field(default_factory=Power)
    prices: Prices = field(default_factory=Prices)
    workload: Workload
    routing: Routing = field(default_factory=Routing)
    survival: tuple[float, ...] = geometric(FIRST_GUESS_ACCEPTANCE)  # S_1 .. of the drafts
    drafting: float = 1.0  # seconds of a drafted token, of those of a decoded one
    codec: Codec = Codec.INT8


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one mode would take, for one request of the workload."""

    mode: Mode
    split: int | None = None  # layers on the device
    draft_tokens: int | None = None  # of each round
    ttft_s: float
    tpot_s: float
    total_s: float
    bytes_up: float
    bytes_down: float
    edge_energy_j: float
    cloud_s: float
    money_usd: float
    exposure: float
    quality: float
    edge_memory_bytes: int

    @property
    def name(self) -> str:
        """For people: ``cloud``, ``split 12``."""
        return self.mode if self.split is None else f"{self.mode} {self.split}"


def predict_all(scenario: Scenario) -> tuple[Prediction, ...]:
    """Predict every mode that the scenario has numbers for, every cut of a split included."""
    predictions = [local(scenario)]
    if scenario.cloud is not None and scenario.link is not None:
        predictions += [cascade(scenario), cloud(scenario), verify(scenario)]
        if scenario.edge_layers is not None:
            predictions += [split(scenario, k) for k in range(1, scenario.cloud.num_layers)]
    return tuple(predictions)


def local(scenario: Scenario) -> Prediction:
    """The device alone."""
    work, edge = scenario.workload, scenario.edge
    ttft = edge.prefill(work.prompt_tokens)
    tpot = edge.decode(work.mean_context)
    total = ttft + (work.output_tokens - 1) * tpot
    return Prediction(
        mode=Mode.LOCAL,
        ttft_s=ttft,
        tpot_s=tpot,
        total_s=total,
        bytes_up=0.0,
        bytes_down=0.0,
        edge_energy_j=(scenario.power.busy_w + scenario.power.idle_w) * total,
        cloud_s=0.0,
        money_usd=0.0,
        exposure=0.0,
        quality=scenario.routing.local_quality,
        edge_memory_bytes=_own_memory(scenario),
    )


def cloud(scenario: Scenario) -> Prediction:
    """The cloud alone: text up once, text streamed down."""
    work, server, link = scenario.workload, *_remote(scenario)
    bytes_up = TEXT_BYTES * work.prompt_tokens + MESSAGE_BYTES
    piece = TEXT_BYTES + MESSAGE_BYTES
    ttft = link.round_trip_s + bytes_up / link.up_bytes_per_s + server.prefill(work.prompt_tokens)
    # Streamed pieces overlap with the next step's compute; a link slower than the model paces them.
    tpot = max(server.decode(work.mean_context), piece / link.down_bytes_per_s)
    cloud_s = server.prefill(work.prompt_tokens) + (work.output_tokens - 1) * server.decode(
        work.mean_context
    )
    return _remote_prediction(
        scenario,
        mode=Mode.CLOUD,
        ttft_s=ttft,
        tpot_s=tpot,
        bytes_up=bytes_up,
        bytes_down=piece * work.output_tokens,
        cloud_s=cloud_s,
    )


def cascade(scenario: Scenario) -> Prediction:
    """The device first; the cloud answers what the device is unsure of, after the whole local answer is known."""
    routing = scenario.routing
    ours, theirs = local(scenario), cloud(scenario)
    sent, tried = 1 - routing.local_share, 1 - routing.gated_share
    ttft = tried * ours.total_s + sent * theirs.ttft_s
    return Prediction(
        mode=Mode.CASCADE,
        ttft_s=ttft,
        tpot_s=routing.local_share * ours.tpot_s + sent * theirs.tpot_s,
        # A local answer is there, whole, at its "first token": confidence is known only then.
        total_s=tried * ours.total_s + sent * theirs.total_s,
        bytes_up=sent * theirs.bytes_up,
        bytes_down=sent * theirs.bytes_down,
        edge_energy_j=tried * ours.edge_energy_j + sent * theirs.edge_energy_j,
        cloud_s=sent * theirs.cloud_s,
        money_usd=sent * theirs.money_usd,
        exposure=sent,
        quality=routing.cascade_quality,
        edge_memory_bytes=ours.edge_memory_bytes,
    )


def verify(scenario: Scenario) -> Prediction:
    """The device drafts, the cloud verifies; the first token comes as early as from the cloud alone."""
    work, server, link = scenario.workload, *_remote(scenario)
    costs = round_costs(scenario)
    length = max(1, best_length(costs, scenario.survival))
    # Round 0 already gave the first token.
    expected = expected_rounds(scenario.survival, length, work.output_tokens - 1)
    num_rounds, num_drafts = expected.num_rounds, expected.num_drafts
    prompt_bytes = BYTES_PER_ID * work.prompt_tokens + MESSAGE_BYTES
    bytes_up = (
        prompt_bytes + num_rounds * (BYTES_PER_ID + MESSAGE_BYTES) + num_drafts * BYTES_PER_ID
    )
    ttft = (
        link.round_trip_s + prompt_bytes / link.up_bytes_per_s + server.prefill(work.prompt_tokens)
    )
    verifying = num_rounds * costs.verify_base_s + num_drafts * costs.verify_per_draft_s
    drafting = scenario.edge.prefill(work.prompt_tokens) + num_drafts * costs.draft_s
    answering = num_rounds * costs.round_s(0) + num_drafts * costs.marginal_s
    prediction = _remote_prediction(
        scenario,
        mode=Mode.VERIFY,
        ttft_s=ttft,
        tpot_s=answering / max(1, work.output_tokens - 1),
        bytes_up=bytes_up,
        bytes_down=(1 + num_rounds) * (2 * BYTES_PER_ID + MESSAGE_BYTES),
        cloud_s=server.prefill(work.prompt_tokens) + verifying,
        busy_s=drafting,
        edge_memory_bytes=_own_memory(scenario),
    )
    return replace(prediction, draft_tokens=length)


def split(scenario: Scenario, k: int) -> Prediction:
    """Layers ``[0, k)`` on the device and the rest in the cloud: one round trip for every token."""
    work, server, link = scenario.workload, *_remote(scenario)
    device = scenario.edge_layers
    if device is None or not 0 < k < server.num_layers:
        raise ValueError("a split needs the cloud model's layers on the device, and a cut inside")
    width = row_bytes(scenario.codec, server.hidden_size)
    prompt_bytes = work.prompt_tokens * width + MESSAGE_BYTES
    later = server.num_layers - k
    ends = device.ends_s + server.ends_s + server.queue_s
    edge_prefill = k * device.layer_prefill(work.prompt_tokens)
    edge_decode = k * device.layer_decode(work.mean_context)
    cloud_prefill = later * server.layer_prefill(work.prompt_tokens)
    cloud_decode = later * server.layer_decode(work.mean_context)
    up = link.up_bytes_per_s
    steps = work.output_tokens - 1
    prediction = _remote_prediction(
        scenario,
        mode=Mode.SPLIT,
        ttft_s=edge_prefill + prompt_bytes / up + link.round_trip_s + cloud_prefill + ends,
        tpot_s=edge_decode + (width + MESSAGE_BYTES) / up + link.round_trip_s + cloud_decode + ends,
        bytes_up=prompt_bytes + steps * (width + MESSAGE_BYTES),
        bytes_down=work.output_tokens * (BYTES_PER_ID + MESSAGE_BYTES),
        cloud_s=cloud_prefill
        + steps * cloud_decode
        + work.output_tokens * (server.ends_s + server.queue_s),
        busy_s=edge_prefill + steps * edge_decode + work.output_tokens * device.ends_s,
        edge_memory_bytes=device.memory_bytes(k, work.prompt_tokens + work.output_tokens),
    )
    return replace(prediction, split=k)


def round_costs(scenario: Scenario) -> RoundCosts:
    """What a round of VERIFY takes in this scenario."""
    work, server, link = scenario.workload, *_remote(scenario)
    base, slope = server.verification(work.mean_context)
    return RoundCosts(
        draft_s=scenario.drafting * scenario.edge.decode(work.mean_context),
        verify_base_s=base,
        verify_per_draft_s=slope,
        round_trip_s=link.round_trip_s + MESSAGE_BYTES / link.up_bytes_per_s,
        up_bytes_per_s=link.up_bytes_per_s,
    )


def _remote_prediction(
    scenario: Scenario,
    *,
    mode: Mode,
    ttft_s: float,
    tpot_s: float,
    bytes_up: float,
    bytes_down: float,
    cloud_s: float,
    busy_s: float = 0.0,
    edge_memory_bytes: int = 0,
) -> Prediction:
    """Fill in what follows from times and bytes alone, for a mode where the whole prompt reaches the cloud."""
    _, link = _remote(scenario)
    power, prices = scenario.power, scenario.prices
    total = ttft_s + (scenario.workload.output_tokens - 1) * tpot_s
    transmit = bytes_up / link.up_bytes_per_s
    energy = power.busy_w * busy_s + power.transmit_w * transmit + power.idle_w * total
    return Prediction(
        mode=mode,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        total_s=total,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        edge_energy_j=energy,
        cloud_s=cloud_s,
        money_usd=prices.cloud_usd_per_s * cloud_s
        + prices.usd_per_gb * (bytes_up + bytes_down) / 1e9,
        exposure=1.0,
        quality=scenario.routing.cloud_quality,
        edge_memory_bytes=edge_memory_bytes,
    )


def _remote(scenario: Scenario) -> tuple[Compute, Link]:
    if scenario.cloud is None or scenario.link is None:
        raise ValueError("this mode needs a cloud and a link")
    return scenario.cloud, scenario.link


def _own_memory(scenario: Scenario) -> int:
    work = scenario.workload
    return scenario.edge.memory_bytes(
        scenario.edge.num_layers, work.prompt_tokens + work.output_tokens
    )
