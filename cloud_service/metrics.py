"""What Prometheus is told. No device, no request and no text is ever a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Every metric of one service, in a registry of its own, so that two can live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        method = ("service", "method")
        self.rpc_started = Counter("tandem_rpc_started", "Calls begun.", method, registry=registry)
        self.rpc_handled = Counter(
            "tandem_rpc_handled", "Calls ended, by status.", (*method, "code"), registry=registry
        )
        self.rpc_seconds = Histogram(
            "tandem_rpc_seconds",
            "Length of calls.",
            method,
            registry=registry,
            buckets=_RPC_SECONDS,
        )
        self.rpc_in_flight = Gauge(
            "tandem_rpc_in_flight", "Calls being answered.", registry=registry
        )
        self.rpc_bytes = Counter(
            "tandem_rpc_bytes", "Bytes of messages.", ("direction",), registry=registry
        )
        self.rpc_retries = Counter(
            "tandem_rpc_retries", "Calls that the channel had tried before.", registry=registry
        )
        self.rpc_no_deadline = Counter(
            "tandem_rpc_no_deadline", "Calls without a deadline.", registry=registry
        )
        self.quota_rejected = Counter(
            "tandem_quota_rejected",
            "Calls refused over a quota.",
            ("tenant", "limit"),
            registry=registry,
        )
        self.identity_mismatch = Counter(
            "tandem_identity_mismatch",
            "Tokens that name another device than the certificate.",
            registry=registry,
        )
        self.dedupe_hits = Counter(
            "tandem_dedupe_hits", "Requests answered from the stored answer.", registry=registry
        )
        self.loop_lag_seconds = Gauge(
            "tandem_loop_lag_seconds", "How late the event loop wakes up.", registry=registry
        )
        self.drain_seconds = Gauge(
            "tandem_drain_seconds", "Length of the last drain.", registry=registry
        )
        self.tokens = Counter(
            "tandem_tokens",
            "Tokens, by kind: input, cached, output.",
            ("tenant", "kind"),
            registry=registry,
        )
        self.cost_micro_usd = Counter(
            "tandem_cost_micro_usd",
            "Billed, millionths of a dollar.",
            ("tenant",),
            registry=registry,
        )
        self.queue_depth = Gauge(
            "tandem_engine_queue_depth", "Requests that wait for the engine.", registry=registry
        )
        self.queue_seconds = Histogram(
            "tandem_engine_queue_seconds",
            "From the engine's door to the first step, by the tenant's class.",
            ("class",),
            registry=registry,
            buckets=_RPC_SECONDS,
        )
        self.sessions = Gauge(
            "tandem_sessions", "Sessions of VERIFY and SPLIT that are kept.", registry=registry
        )
        self.kv_usage = Gauge(
            "tandem_engine_kv_usage_ratio", "Share of the KV cache in use.", registry=registry
        )
        self.preemptions = Counter(
            "tandem_engine_preemptions",
            "Running sequences that gave their memory to more urgent ones.",
            registry=registry,
        )
        self.batch_sequences = Histogram(
            "tandem_engine_batch_sequences",
            "Sequences in one step of the engine.",
            registry=registry,
            buckets=_BATCH,
        )
        self.batch_tokens = Histogram(
            "tandem_engine_batch_tokens",
            "Positions in one step of the engine.",
            registry=registry,
            buckets=_BATCH,
        )
        self.first_token_seconds = Histogram(
            "tandem_first_token_seconds",
            "From arrival to the first token, by the tenant's class.",
            ("class",),
            registry=registry,
            buckets=_TOKEN_SECONDS,
        )
        self.output_token_seconds = Histogram(
            "tandem_output_token_seconds",
            "Mean seconds per token after the first, by request and the tenant's class.",
            ("class",),
            registry=registry,
            buckets=_TOKEN_SECONDS,
        )
