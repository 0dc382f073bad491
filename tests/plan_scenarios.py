"""Scenarios of planner tests: figures near a two-core device, a CPU cloud, and a wide-area link."""

from __future__ import annotations

from dataclasses import replace

from partition.extend.draft_length import geometric
from partition.planning.cost import Routing, Scenario, Workload
from partition.planning.profile import Compute, Link, Power, Prices

EDGE = Compute(
    model="small",
    num_layers=24,
    hidden_size=896,
    layer_prefill_s=(1e-4, 3e-5, 1e-8),
    layer_decode_s=(1.2e-3, 1e-7),
    ends_s=4e-3,
    layer_bytes=15_000_000,
    ends_bytes=140_000_000,
    kv_bytes=512,
    workspace_bytes=50_000_000,
)
CLOUD = Compute(
    model="large",
    num_layers=28,
    hidden_size=1536,
    layer_prefill_s=(1e-4, 1e-4, 1e-8),
    layer_decode_s=(7e-3, 1e-7),
    ends_s=2e-2,
    verify_s=(0.22, 0.012),
    layer_bytes=47_000_000,
    ends_bytes=233_000_000,
    kv_bytes=1024,
    workspace_bytes=50_000_000,
)
LAYERS = replace(CLOUD, layer_decode_s=(3e-3, 1e-7), verify_s=None, ends_s=1e-3)
LINK = Link(
    round_trip_s=0.05, round_trip_p95_s=0.06, up_bytes_per_s=1.25e6, down_bytes_per_s=1.25e6
)


def scenario(**changes: object) -> Scenario:
    """The ordinary one, with changes."""
    ordinary = Scenario(
        edge=EDGE,
        edge_layers=LAYERS,
        cloud=CLOUD,
        link=LINK,
        power=Power(busy_w=10, transmit_w=2, idle_w=1),
        prices=Prices(cloud_usd_per_s=1e-3, usd_per_gb=1.0),
        workload=Workload(prompt_tokens=355, output_tokens=64),
        routing=Routing(local_share=0.8, gated_share=0.05),
        survival=geometric(0.83),
    )
    return replace(ordinary, **changes)  # type: ignore[arg-type]
