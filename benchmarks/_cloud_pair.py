"""A device's model and a real cloud service on one machine, a core each, with a shaped link between them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import platformdirs

from benchmarks._shaped_link import ShapedLink
from cloud_service.tenancy import pki
from cloud_service.tenancy.identity import Identity
from edge_agent.cloud.extend_stream import ExtendStream
from edge_agent.extend.drafter import Drafter
from edge_agent.extend.verify import Verification, VerifyResult
from partition.extend.draft_length import RoundCosts
from partition.extend.frame_messages import Opening
from partition.extend.frames import Agreement, Extend, Extended, prefix_hash
from partition.extend.verify import DraftingSession
from partition.generation.sampling import SamplingRule, choose
from partition.planning.model_sizes import sizes_of
from partition.planning.profile import Compute
from partition.planning.profiler import Profiler, fit_polynomial
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
_PREFILLS = (16, 64, 128, 256)
_DRAFTS = (0, 1, 3, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one answer took."""

    num_tokens: int
    first_s: float
    total_s: float
    text: str = ""


class EdgeModel:
    """The device's model."""

    def __init__(self, name: str, *, precision: Precision = Precision.INT8) -> None:
        path = ModelStore().get(name)
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
        files = pki.CertificateFolder(self._root)
        pair = files.device(DEVICE)
        credentials = grpc.ssl_channel_credentials(
            files.authority.certificate.read_bytes(),
            pair.key.read_bytes(),
            pair.certificate.read_bytes(),
        )
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

    def stream(self, text: str, limit: int) -> Timing:
        """Have the cloud answer alone, streaming."""
        request = inference_pb2.GenerateRequest(
            request_id=new_request_id(),
            messages=[inference_pb2.Message(role=inference_pb2.ROLE_USER, text=text)],
            max_output_tokens=limit,
        )
        started, first_s, count, answer = time.perf_counter(), 0.0, 0, ""
        for event in self._stub.Generate(request, timeout=600):
            if event.HasField("delta"):
                first_s = first_s or time.perf_counter() - started
            if event.HasField("finished"):
                count, answer = event.finished.usage.output_tokens, event.finished.text
        total_s = time.perf_counter() - started
        return Timing(num_tokens=count, first_s=first_s or total_s, total_s=total_s, text=answer)

    def verify(
        self, edge: EdgeModel, prompt: tuple[int, ...], limit: int, *, costs: RoundCosts
    ) -> tuple[Timing, VerifyResult]:
        """Have the device draft and the cloud verify."""
        key = secrets.token_bytes(32)
        session = DraftingSession(
            prompt, max_new_tokens=limit, key=key, end_ids=edge.tokenizer.end_ids
        )
        started = time.perf_counter()
        firsts: list[float] = []
        drafter = Drafter(edge.stage, GREEDY, name="verify", clock=time.perf_counter)
        stream = self.open(key)
        try:
            result = Verification(
                session,
                drafter,
                stream,
                costs=costs,
                clock=time.perf_counter,
                on_ids=lambda ids: firsts.append(time.perf_counter() - started),
                prompt_timeout_s=120.0,
            ).run()
        finally:
            drafter.close()
            stream.close()
        text = edge.tokenizer.decode([i for i in result.ids if i not in edge.tokenizer.end_ids])
        timing = Timing(
            num_tokens=len(result.ids),
            first_s=firsts[0] if firsts else 0.0,
            total_s=time.perf_counter() - started,
            text=text,
        )
        return timing, result

    def profile(self, *, vocab_size: int) -> Compute:
        """Measure the cloud's model by frames whose replies say what they took."""
        assert self._card is not None
        random, key = np.random.default_rng(0), bytes(32)

        def took(frames: list[tuple[int, int]]) -> float:
            """Median server seconds of the last of some frames (positions, drafts), over fresh sessions."""
            times = []
            for _ in range(4):
                stream = self.open(key)
                ids: list[int] = []
                seconds = 0.0
                for number, (count, drafts) in enumerate(frames, start=1):
                    fresh = random.integers(10, vocab_size, count).tolist()
                    frame = Extend(
                        round=number,
                        base_len=len(ids),
                        prefix_hash=prefix_hash(key, ids),
                        ids=tuple(fresh),
                        num_positions=count,
                        draft_len=drafts,
                    )
                    stream.send(frame)
                    reply = stream.receive(120.0)
                    assert isinstance(reply, Extended)
                    seconds = (reply.compute_us + reply.queue_us) / 1e6
                    ids = [*ids, *fresh][: reply.len_after]
                stream.close()
                times.append(seconds)
            return float(np.median(times[1:]))

        layers = self._card.num_layers
        prefill = [took([(count, 0)]) / layers for count in _PREFILLS]
        decode = [took([(count, 0), (1, 0)]) / layers for count in (32, 256)]
        verify = [took([(200, 0), (1 + drafts, drafts)]) for drafts in _DRAFTS]
        a, b, c = fit_polynomial(_PREFILLS, prefill, degree=2)
        d, e = fit_polynomial((32, 256), decode, degree=1)
        base, slope = fit_polynomial(_DRAFTS, verify, degree=1)
        return Compute(
            model=self._card.model,
            num_layers=layers,
            hidden_size=self._card.hidden_size,
            layer_prefill_s=(a, b, c),
            layer_decode_s=(d, e),
            verify_s=(base, slope),
        )

    def open(self, key: bytes) -> ExtendStream:
        """Open a session for token ids."""
        card = self._card
        assert card is not None
        opening = Opening(
            session=secrets.token_hex(8),
            agreement=Agreement(
                fingerprint=card.fingerprint,
                tokenizer_sha256=card.tokenizer_sha256,
                chat_template_sha256=card.chat_template_sha256,
                vocabulary_size=card.vocabulary_size,
            ),
            stage_start=0,
            stage_end=card.num_layers,
            sampling=GREEDY,
            prefix_key=key,
        )

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
        config = root / "cloud.toml"
        config.write_text(
            "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_authority = 'ca.crt'\n"
            f"[engine]\nkv_mib = 256\n[model]\nthreads = 1\ndtype = '{dtype}'\n[state]\ndirectory = 'state'\n"
            "[drain]\nbalancer_s = 0.0\nfinish_s = 1.0\n"
        )
        command = [
            sys.executable,
            "-c",
            "import sys; from cloud_service.cli import main; sys.exit(main())",
        ]
        command += ["serve", "--config", str(config), "--listen", "127.0.0.1:0", "--model", model]
        service = subprocess.Popen(  # noqa: S603  # our own module
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            assert service.stdout is not None
            ready = json.loads(service.stdout.readline())
            yield CloudPair(root, int(str(ready["address"]).rpartition(":")[2]))
        finally:
            service.terminate()
            service.communicate(timeout=30)


def no_drafts(costs: RoundCosts) -> RoundCosts:
    """Costs under which drafting never pays: one token a round trip."""
    return replace(costs, draft_s=1e6)
