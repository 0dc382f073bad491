"""A device's model and a real cloud service on one machine, a core each, with a shaped link between them."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import platformdirs

from benchmarks._served_cloud import device_credentials
from benchmarks._service_process import service_process
from benchmarks._shaped_link import ShapedLink
from cloud_service.identity import Identity
from cloud_service.tenancy import pki
from edge_agent.cloud.extend_stream import FRAME_BYTES, ExtendStream
from edge_agent.cloud.frame_channel import FrameChannel
from edge_agent.cloud.model_survey import ModelSurvey
from edge_agent.cloud.session_cloud import opening_of
from edge_agent.extend.drafter import Drafter
from edge_agent.extend.first_layers import FirstLayers
from edge_agent.extend.split import SplitResult, SplitRun
from edge_agent.extend.verify import Verification, VerifyResult
from partition.extend.activations import Codec
from partition.extend.draft_length import Acceptance, RoundCosts
from partition.extend.frame_messages import Opening
from partition.extend.model_card import ModelCard, card_from_message
from partition.extend.split import SplittingSession
from partition.extend.verify import DraftingSession
from partition.generation.sampling import SamplingRule, choose
from partition.planning.link import probe
from partition.planning.model_sizes import sizes_of
from partition.planning.profile import Compute, Link
from partition.planning.profiler import Profiler
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision
from partition.store.model_store import ModelStore
from partition.text.tokenizer import Tokenizer
from partition.weights.weight_source import open_weights
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.request_id import new_request_id

GREEDY = SamplingRule()
DEVICE = Identity(tenant="bench", device="device-1")
_CONTEXT_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one answer took."""

    num_tokens: int
    first_s: float
    total_s: float
    text: str = ""
    sent_bytes: int = 0  # messages with gRPC's prefix


class EdgeModel:
    """The device's model."""

    def __init__(self, name: str, *, precision: Precision = Precision.INT8) -> None:
        self.path = path = ModelStore().get(name)
        source = open_weights(path)
        self.tokenizer = Tokenizer.open(path)
        self.spec = source.spec
        self.name = name
        self._precision = precision
        self.stage = OnnxStage.open(
            source,
            precision=precision,
            threads=1,
            context_tokens=_CONTEXT_TOKENS,
            cache_dir=platformdirs.user_cache_path("tandem") / "stages",
        )

    def profile(self) -> Compute:
        """Measure it as ``partition profile`` does."""
        sizes = sizes_of(self.spec, self._precision)
        return Profiler(self.stage, sizes, clock=time.perf_counter).measure(self.name).compute

    def layers(self, count: int) -> FirstLayers:
        """Its first layers by themselves, for a split with a cloud that runs the same file."""
        return FirstLayers.open(
            self.path,
            count=count,
            precision=self._precision,
            threads=1,
            context_tokens=_CONTEXT_TOKENS,
            cache_dir=platformdirs.user_cache_path("tandem"),
            max_memory_mb=None,
        )

    def profile_layers(self) -> Compute:
        """Measure half of its layers as those of a split."""
        half = self.layers(self.spec.num_layers // 2)
        profiler = Profiler(
            half.stage, sizes_of(self.spec, self._precision), clock=time.perf_counter
        )
        try:
            return profiler.measure_layers(self.name, num_layers=half.count).compute
        finally:
            half.close()

    def write(self, prompt: tuple[int, ...], limit: int) -> Timing:
        """Answer alone."""
        started = time.perf_counter()
        first_s, ids, fed = 0.0, list(prompt), prompt
        for _ in range(limit):
            output = self.stage.extend(
                "local", np.array(fed, np.int32), base_len=len(ids) - len(fed)
            )
            assert output.logits is not None
            ids.append(choose(output.logits[-1], GREEDY, position=len(ids)))
            first_s = first_s or time.perf_counter() - started
            fed = (ids[-1],)
            if ids[-1] in self.tokenizer.end_ids:
                break
        self.stage.forget("local")
        count = len(ids) - len(prompt)
        return Timing(num_tokens=count, first_s=first_s, total_s=time.perf_counter() - started)


class CloudPair:
    """The service, reached over one link. Get one from :func:`cloud_pair`."""

    def __init__(self, root: Path, port: int) -> None:
        self._root, self.port = root, port
        self._channel: grpc.Channel | None = None
        self._card: inference_pb2.GetModelResponse | None = None

    @contextmanager
    def over(self, *, round_trip_s: float, bytes_per_s: float) -> Iterator[None]:
        """Reach the service over a link."""
        credentials = device_credentials(self._root, DEVICE)
        options = (("grpc.enable_http_proxy", 0),)
        with (
            ShapedLink(self.port, round_trip_s=round_trip_s, bytes_per_s=bytes_per_s) as link,
            grpc.secure_channel(f"127.0.0.1:{link.port}", credentials, options) as channel,
        ):
            self._channel = channel
            self._card = self._stub.GetModel(inference_pb2.GetModelRequest(), timeout=60)
            yield
        self._channel = None

    def round_trip_s(self) -> float:
        """Median time of a call that does nothing."""
        times = []
        for _ in range(9):
            started = time.perf_counter()
            self._stub.GetModel(inference_pb2.GetModelRequest(), timeout=60)
            times.append(time.perf_counter() - started)
        return float(np.median(times))

    def link(self, *, bytes_per_s: float) -> Link:
        """The link as ``edge-agent profile`` probes it, with the smaller frames that a benchmark has time for."""

        def exchange(bytes_up: int, bytes_down: int) -> float:
            request = inference_pb2.ProbeRequest(
                padding=os.urandom(bytes_up), reply_bytes=bytes_down
            )
            return float(self._stub.Probe(request, timeout=60).server_us / 1e6)

        large_bytes = round(min(262_144, max(16_384, 0.2 * bytes_per_s)))
        found = probe(exchange, clock=time.perf_counter, num_large=2, large_bytes=large_bytes)
        return Link.of(found)

    def stream(self, text: str, limit: int, *, sampling: SamplingRule = GREEDY) -> Timing:
        """Have the cloud answer alone, streaming."""
        request = inference_pb2.GenerateRequest(
            request_id=new_request_id(),
            messages=[inference_pb2.Message(role=inference_pb2.ROLE_USER, text=text)],
            max_output_tokens=limit,
            sampling=inference_pb2.Sampling(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=sampling.seed,
            ),
        )
        started, first_s, count, answer = time.perf_counter(), 0.0, 0, ""
        for event in self._stub.Generate(request, timeout=600):
            if event.HasField("delta"):
                first_s = first_s or time.perf_counter() - started
            if event.HasField("finished"):
                count, answer = event.finished.usage.output_tokens, event.finished.text
        total_s = time.perf_counter() - started
        return Timing(
            num_tokens=count,
            first_s=first_s or total_s,
            total_s=total_s,
            text=answer,
            sent_bytes=request.ByteSize() + FRAME_BYTES,
        )

    def verify(
        self,
        edge: EdgeModel,
        prompt: tuple[int, ...],
        limit: int,
        *,
        costs: RoundCosts,
        acceptance: Acceptance | None = None,
        sampling: SamplingRule = GREEDY,
        wrap: Callable[[FrameChannel], FrameChannel] = lambda channel: channel,
    ) -> tuple[Timing, VerifyResult]:
        """Have the device draft and the cloud verify; ``wrap`` may put something into the way of the frames."""
        key = secrets.token_bytes(32)
        opening = opening_of(self._known, sampling, prefix_key=key)
        session = DraftingSession(
            prompt, max_new_tokens=limit, key=key, end_ids=edge.tokenizer.end_ids
        )
        started = time.perf_counter()
        firsts: list[float] = []
        drafter = Drafter(edge.stage, sampling, name="verify", clock=time.perf_counter)
        stream = wrap(self._open(opening))
        try:
            result = Verification(
                session,
                drafter,
                stream,
                costs=costs,
                acceptance=acceptance,
                clock=time.perf_counter,
                on_ids=lambda ids: firsts.append(time.perf_counter() - started),
                prompt_timeout_s=120.0,
            ).run()
        finally:
            drafter.close()
            stream.close()
        first_s = firsts[0] if firsts else None
        return self._timing(result, edge.tokenizer, started, first_s), result

    def split(
        self,
        layers: FirstLayers,
        prompt: tuple[int, ...],
        limit: int,
        *,
        codec: Codec,
        sampling: SamplingRule = GREEDY,
        wrap: Callable[[FrameChannel], FrameChannel] = lambda channel: channel,
    ) -> tuple[Timing, SplitResult]:
        """Have the device run the first layers."""
        session = SplittingSession(
            prompt,
            max_new_tokens=limit,
            key=secrets.token_bytes(32),
            end_ids=layers.tokenizer.end_ids,
        )
        opening = opening_of(self._known, sampling, stage_start=layers.count, codec=codec)
        started = time.perf_counter()
        stream = wrap(self._open(opening))
        try:
            result = SplitRun(
                session,
                layers.stage,
                stream,
                codec=codec,
                clock=time.perf_counter,
                name="split",
                prompt_timeout_s=120.0,
            ).run()
        finally:
            stream.close()
        return self._timing(result, layers.tokenizer, started, result.first_token_s), result

    def _timing(
        self,
        result: VerifyResult | SplitResult,
        tokenizer: Tokenizer,
        started: float,
        first_s: float | None,
    ) -> Timing:
        return Timing(
            num_tokens=len(result.ids),
            first_s=first_s or 0.0,
            total_s=time.perf_counter() - started,
            text=tokenizer.decode([i for i in result.ids if i not in tokenizer.end_ids]),
        )

    def profile(self) -> Compute:
        """Measure the cloud's model as ``edge-agent profile`` does."""
        return ModelSurvey(self._open, self._known, clock=time.perf_counter).measure()

    @property
    def _known(self) -> ModelCard:
        card = self._card
        assert card is not None
        return card_from_message(card)

    def _open(self, opening: Opening) -> ExtendStream:
        @contextmanager
        def lend() -> Iterator[grpc.Channel]:
            assert self._channel is not None
            yield self._channel

        return ExtendStream(lend, opening)

    @property
    def _stub(self) -> inference_pb2_grpc.InferenceServiceStub:
        assert self._channel is not None
        return inference_pb2_grpc.InferenceServiceStub(self._channel)


@contextmanager
def cloud_pair(model: str, *, dtype: str = "auto") -> Iterator[CloudPair]:
    """Start a service with one thread and a model by name; ends it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pki.create_authority(root)
        pki.issue_device(root, DEVICE)
        sections = (
            f"[engine]\nkv_mib = 256\n[model]\nthreads = 1\ndtype = '{dtype}'\n"
            f"[drain]\nbalancer_s = 0.0\nfinish_s = 1.0\n[tenants]\nadmitted = ['{DEVICE.tenant}']\n"
        )
        with service_process(root, model, sections) as service:
            yield CloudPair(root, int(service.address.rpartition(":")[2]))


def no_drafts(costs: RoundCosts) -> RoundCosts:
    """Costs under which drafting never pays: one token a round trip."""
    return replace(costs, draft_s=1e6)
