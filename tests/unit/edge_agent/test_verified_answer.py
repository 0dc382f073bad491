"""A whole request by VERIFY: real tokenizer, real stages of tiny models, a real gRPC stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from edge_agent.cloud.client import CloudClient
from edge_agent.cloud.cloud import CloudAnswer, GenerateOptions, WireIds
from edge_agent.config import EdgeConfig, load_config
from edge_agent.errors import ConfigError
from edge_agent.extend.after_prefix import AfterPrefix
from edge_agent.extend.joint_route import JointRoute
from edge_agent.extend.joint_setup import make_joint_route, make_plans
from edge_agent.extend.verified_answer import VerifiedAnswers
from edge_agent.extend.verify import Ending
from edge_agent.flow import Route
from edge_agent.local_model import LocalModel
from partition.extend.draft_length import RoundCosts
from partition.extend.frames import Agreement
from partition.generation.sampling import SamplingRule, choose
from partition.planning.profile import DeviceProfile, save_profile
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision
from partition.text.tokenizer import Tokenizer
from partition.weights.weight_source import open_weights
from protos.errors import DeadlineExceededError, RequestCancelledError
from tests.frame_server import FrameServer
from tests.frame_simulator import VerifyServer
from tests.plan_scenarios import CLOUD, EDGE, LINK
from tests.simulators import make_anonymized
from tests.tiny_models import make_folder

COSTS = RoundCosts(draft_s=1e-4, verify_base_s=1e-2, verify_per_draft_s=1e-5, round_trip_s=1e-2)
OPTIONS = GenerateOptions(max_output_tokens=40, temperature=0.7, seed=5)


class Pair:
    """A small and a large model with one tokenizer, and a server that verifies."""

    def __init__(self, root: Path) -> None:
        small, large = (
            make_folder(root / name, seed=seed, head_dim=16)
            for name, seed in (("small", 1), ("large", 2))
        )
        self.model = LocalModel.open(
            small,
            threads=1,
            max_memory_mb=None,
            context_tokens=512,
            cache_dir=root,
            precision=Precision.FLOAT32,
        )
        self.stage = OnnxStage.open(
            open_weights(large),
            precision=Precision.FLOAT32,
            threads=1,
            context_tokens=512,
            cache_dir=root,
        )
        self.tokenizer = Tokenizer.open(large)
        self.agreement = Agreement(
            fingerprint="large-1",
            tokenizer_sha256=self.tokenizer.sha256,
            chat_template_sha256=self.tokenizer.chat.sha256,
            vocabulary_size=self.tokenizer.vocab_size,
        )

    def serve(self, options: GenerateOptions) -> FrameServer:
        rule = SamplingRule(temperature=options.temperature, seed=options.seed)
        return FrameServer(_Keyed(self, rule), self.agreement)

    def whole(self, options: GenerateOptions) -> str:
        """What the large model alone writes."""
        anonymized = make_anonymized()
        prompt = self.tokenizer.chat.render(anonymized.task.render(anonymized.messages))
        ids = list(self.tokenizer.encode(prompt, with_specials=True))
        rule = SamplingRule(temperature=np.float32(options.temperature), seed=options.seed)
        answer: list[int] = []
        while len(answer) < options.max_output_tokens:
            base = self.stage.length("alone") if answer else 0
            fed = np.array(ids[base:], np.int32)
            logits = self.stage.extend("alone", fed, base_len=base).logits
            assert logits is not None
            answer.append(choose(logits[-1], rule, position=len(ids)))
            if answer[-1] in self.tokenizer.end_ids:
                break
            ids.append(answer[-1])
        self.stage.forget("alone")
        return self.tokenizer.decode(answer)


class _Keyed:
    """Makes the verifying half once the key of the session is known."""

    def __init__(self, pair: Pair, rule: SamplingRule) -> None:
        self._pair, self._rule, self._half = pair, rule, None

    def opened(self, key: bytes) -> None:
        rule = SamplingRule(temperature=np.float32(self._rule.temperature), seed=self._rule.seed)
        self._half = VerifyServer(
            self._pair.stage, rule, key=key, end_ids=set(self._pair.tokenizer.end_ids)
        )

    def handle(self, frame):  # type: ignore[no-untyped-def]
        assert self._half is not None
        return self._half.handle(frame)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    made.model.close()
    made.stage.close()


@pytest.fixture
def client() -> Iterator[object]:
    clients: list[CloudClient] = []

    def connect(server: FrameServer) -> CloudClient:
        clients.append(
            CloudClient(
                f"127.0.0.1:{server.port}", wire_ids=WireIds(bytes(32)), insecure_loopback=True
            )
        )
        return clients[-1]

    yield connect
    for one in clients:
        one.close()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_text_is_the_large_models_own(pair: Pair, client, temperature: float) -> None:  # type: ignore[no-untyped-def]
    options = replace(OPTIONS, temperature=temperature)
    streamed: list[str] = []
    with pair.serve(options) as server:
        answers = VerifiedAnswers(client(server), costs=COSTS)
        assert answers.why_not(pair.model, options) == ""
        found = answers.answer(pair.model, make_anonymized(), options, on_text=streamed.append)
    assert found.is_whole
    assert found.text == "".join(streamed) == pair.whole(options)
    assert found.fingerprint == "large-1"
    assert found.num_verified_characters == len(found.text)


def test_a_cloud_that_leaves_keeps_the_verified_beginning(pair: Pair, client) -> None:  # type: ignore[no-untyped-def]
    with pair.serve(OPTIONS) as server:
        server.break_after = 3
        server.refuse_later = (grpc.StatusCode.UNAVAILABLE, "gone")
        answers = VerifiedAnswers(client(server), costs=COSTS)
        found = answers.answer(pair.model, make_anonymized(), OPTIONS)
    assert found.result.ending is Ending.UNVERIFIED
    assert not found.is_whole
    assert 0 < found.num_verified_characters < len(found.text)
    verified = found.text[: found.num_verified_characters].rstrip("\ufffd")
    assert pair.whole(OPTIONS).startswith(verified)


def test_what_prevents_it_is_a_sentence(pair: Pair, client) -> None:  # type: ignore[no-untyped-def]
    with pair.serve(OPTIONS) as server:
        answers = VerifiedAnswers(client(server), costs=COSTS)
        assert "stop strings" in answers.why_not(pair.model, replace(OPTIONS, stop=(";",)))
        assert "another model" in answers.why_not(pair.model, replace(OPTIONS, model="x"))
    with pair.serve(OPTIONS) as server:
        server.agreement = replace(pair.agreement, tokenizer_sha256="0")
        answers = VerifiedAnswers(client(server), costs=COSTS)
        assert "another tokenizer" in answers.why_not(pair.model, OPTIONS)
    with pair.serve(OPTIONS) as server:
        server.agreement = replace(pair.agreement, chat_template_sha256="0")
        answers = VerifiedAnswers(client(server), costs=COSTS)
        assert "another chat template" in answers.why_not(pair.model, OPTIONS)


def test_a_model_that_changed_meanwhile_is_asked_for_again(pair: Pair, client) -> None:  # type: ignore[no-untyped-def]
    with pair.serve(OPTIONS) as server:
        answers = VerifiedAnswers(client(server), costs=COSTS)
        assert answers.why_not(pair.model, OPTIONS) == ""
        server.agreement = replace(pair.agreement, fingerprint="large-2")
        found = answers.answer(pair.model, make_anonymized(), OPTIONS)
        assert (found.result.ending, found.result.mismatch) == (Ending.MISMATCH, "fingerprint")
        assert found.text == ""
        assert answers.answer(pair.model, make_anonymized(), OPTIONS).is_whole


def route(cloud: object, **options: object) -> JointRoute:
    return JointRoute(verify=VerifiedAnswers(cloud, costs=COSTS), **options)  # type: ignore[arg-type]


def try_answer(one: JointRoute, pair: Pair, **changes: object) -> tuple[object, str, int]:
    streamed: list[str] = []
    sent: list[int] = []
    arguments: dict[str, object] = {
        "deadline_s": 60.0,
        "on_text": streamed.append,
        "cancel": threading.Event(),
        "on_sent": sent.append,
    }
    found = one.try_answer(pair.model, make_anonymized(), OPTIONS, **(arguments | changes))  # type: ignore[arg-type]
    return found, "".join(streamed), sum(sent)


def test_the_route_gives_a_cloud_answer_that_says_it_was_verified(pair: Pair, client) -> None:  # type: ignore[no-untyped-def]
    with pair.serve(OPTIONS) as server:
        found, streamed, sent = try_answer(route(client(server)), pair)
    assert isinstance(found, CloudAnswer)
    assert found.route is Route.VERIFY
    assert found.text == streamed == pair.whole(OPTIONS)
    assert found.sent_bytes == sent > 0
    assert found.usage.output_tokens > 0


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND])
def test_a_server_without_sessions_gets_the_text(pair: Pair, client, code) -> None:  # type: ignore[no-untyped-def]
    with pair.serve(OPTIONS) as server:
        server.refuse_with = (code, "no")
        assert try_answer(route(client(server)), pair)[0] == ""


def test_what_was_shown_is_the_beginning_of_what_the_cloud_streams(pair: Pair, client) -> None:  # type: ignore[no-untyped-def]
    with pair.serve(OPTIONS) as server:
        server.break_after = 3
        server.refuse_later = (grpc.StatusCode.UNIMPLEMENTED, "no")
        found, streamed, _ = try_answer(route(client(server)), pair)
    assert found == streamed != ""
    whole = pair.whole(OPTIONS)
    assert whole.startswith(streamed)
    rest: list[str] = []
    after = AfterPrefix(streamed, rest.append)
    for piece in (whole[:3], whole[3:9], whole[9:]):
        after(piece)
    assert streamed + "".join(rest) == whole


def test_a_caller_who_gives_up_and_a_deadline_end_it(pair: Pair, client) -> None:  # type: ignore[no-untyped-def]
    cancelled = threading.Event()
    cancelled.set()
    with pair.serve(OPTIONS) as server:
        with pytest.raises(RequestCancelledError):
            try_answer(route(client(server)), pair, cancel=cancelled)
        with pytest.raises(DeadlineExceededError):
            try_answer(route(client(server)), pair, deadline_s=-1.0)


def profile_of(path: Path, **changes: object) -> Path:
    made = DeviceProfile(edge=EDGE, cloud=CLOUD, link=replace(LINK, round_trip_s=0.002))
    save_profile(replace(made, **changes), path)  # type: ignore[arg-type]
    return path


def config_of(profile: Path | None) -> EdgeConfig:
    return load_config(None, flags={"cloud": {"verify": True, "profile": profile}}, environment={})


def planned(cloud: object, profile: Path | None) -> JointRoute:
    config = config_of(profile)
    made = make_joint_route(config, cloud, make_plans(config), find_model=Path)  # type: ignore[arg-type]
    assert made is not None
    return made


def test_the_plan_decides_whether_to_verify(
    pair: Pair,
    client,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    with pair.serve(OPTIONS) as server:
        cloud = client(server)
        near, far = profile_of(tmp_path / "near.json"), tmp_path / "far.json"
        profile_of(far, link=replace(LINK, round_trip_s=5.0))
        assert try_answer(planned(cloud, far), pair) == ("", "", 0)
        assert server.openings == []
        assert isinstance(try_answer(planned(cloud, near), pair)[0], CloudAnswer)
        assert isinstance(try_answer(planned(cloud, None), pair)[0], CloudAnswer)


def test_a_profile_without_a_cloud_says_what_to_do(tmp_path: Path) -> None:
    config = config_of(profile_of(tmp_path / "p.json", cloud=None))
    with pytest.raises(ConfigError, match="edge-agent profile"):
        make_plans(config)


def test_what_is_not_wanted_is_not_made() -> None:
    config = load_config(None, flags={}, environment={})
    assert make_plans(config) is None
    assert make_joint_route(config, None, None, find_model=Path) is None  # type: ignore[arg-type]


def test_others_use_the_model_while_a_draft_is_being_verified(pair: Pair, client) -> None:  # type: ignore[no-untyped-def]
    answered: list[int] = []

    def on_text(piece: str) -> None:  # in the middle of an answer, from the thread that drafts
        if not answered:
            worker = threading.Thread(target=use)
            worker.start()
            worker.join(20)

    def use() -> None:
        stage = pair.model.shared_stage
        stage.extend("other", np.array([5, 6], np.int32), base_len=0)
        answered.append(stage.length("other"))
        stage.forget("other")

    with pair.serve(OPTIONS) as server:
        answers = VerifiedAnswers(client(server), costs=COSTS)
        assert answers.answer(pair.model, make_anonymized(), OPTIONS, on_text=on_text).is_whole
    assert answered == [2]


def test_a_model_that_was_exchanged_leaves_the_request_to_the_cloud(
    pair: Pair,
    client,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    other = LocalModel.open(
        make_folder(tmp_path / "small", seed=1, head_dim=16),
        threads=1,
        max_memory_mb=None,
        context_tokens=512,
        cache_dir=tmp_path,
        precision=Precision.FLOAT32,
    )
    with pair.serve(OPTIONS) as server:
        one = route(client(server))
        found = one.try_answer(
            other,
            make_anonymized(),
            OPTIONS,
            deadline_s=60.0,
            on_text=lambda piece: other.close(),
            cancel=threading.Event(),
            on_sent=lambda count: None,
        )
    assert isinstance(found, str)
    assert pair.whole(OPTIONS).startswith(found)
