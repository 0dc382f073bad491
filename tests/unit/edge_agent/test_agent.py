"""The agent's own logic: which steps run, what leaves, what the caller sees. Parts are simulators with the real interface."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_agent import Answer, EdgeAgent, Entity, Request, Route, new_request_id
from edge_agent.anonymize.anonymized import Anonymized
from edge_agent.anonymize.closed import ClosedAnonymizer
from edge_agent.cancellation import Cancellation
from edge_agent.cloud.cloud import WireIds
from edge_agent.errors import InputError, RequestStoppedError, ResidualIdentifierError
from edge_agent.flow import LabelScore, LocalAnswer
from edge_agent.keystore import KeyStore
from edge_agent.metrics import Metrics
from edge_agent.outbox.delivery import Delivery, DeliverySettings
from edge_agent.outbox.outbox import Outbox
from edge_agent.parts import Parts
from edge_agent.trust import Trust
from edge_agent.vault import Vault
from partition.errors import ContextLengthError
from partition.fingerprint import Setup
from partition.task import Policy, Task, TaskKind
from protos.errors import InvalidRequestError, UnavailableError
from tests.simulators import SimulatedCloud, make_anonymized

TRIAGE = Task(
    name="triage",
    kind=TaskKind.CLASSIFY,
    labels=("normal", "abnormal"),
    policy=Policy(local_threshold=0.9),
)
CHAT = Task(name="chat", kind=TaskKind.GENERATE, policy=Policy(local_threshold=0.9))
BOUND = Task(name="bound", kind=TaskKind.GENERATE, policy=Policy(may_leave_device=False))


class SimulatedAnonymizer:
    """Knows one patient, and one text it cannot make safe."""

    version = "simulated"

    def anonymize(self, prepared):
        text = prepared.messages[-1].text
        if "unsafe" in text:
            raise ResidualIdentifierError(Entity.PERSON)
        vault = Vault()
        if "Smith" in text:
            vault.put("[PERSON_1]", Entity.PERSON, "Smith")
        anonymized = make_anonymized(
            text.replace("Smith", "[PERSON_1]"),
            request_id=prepared.request.id,
            task=prepared.task,
        )
        return anonymized, vault


class SimulatedModel:
    """Says how sure it is when the text tells it to be."""

    fingerprint = "simulated-edge"

    def __init__(self):
        self.seen = []
        self.is_closed = False

    def answer(self, messages, task, request, *, on_text=None, cancel=None):
        text = messages[-1].text
        self.seen.append(text)
        if "too long" in text:
            raise ContextLengthError("the input is longer than the local model's context")
        sure = "sure" in text
        if task.kind is TaskKind.CLASSIFY:
            scores = (LabelScore(label="normal", log_probability=-0.01 if sure else -0.7),)
            scores += (LabelScore(label="abnormal", log_probability=-5.0 if sure else -0.7),)
            return LocalAnswer(
                text="normal",
                token_log_probabilities=(scores[0].log_probability,),
                label_scores=scores,
                num_input_tokens=5,
                num_output_tokens=1,
            )
        said = "local: [PERS" + "ON_1] is well"
        for piece in ("local: [PERS", "ON_1] is", " well"):
            if on_text is not None:
                on_text(piece)
        if cancel is not None and "wait" in text:
            cancel.wait(5)
        return LocalAnswer(
            text=said,
            token_log_probabilities=(-0.001 if sure else -1.0,),
            num_input_tokens=5,
            num_output_tokens=3,
        )

    def close(self):
        self.is_closed = True


class Bench:
    """An agent and the parts a test looks at."""

    def __init__(self, folder, cloud, anonymizer=None):
        self.cloud = cloud
        self.model = SimulatedModel()
        tasks = {task.name: task for task in (TRIAGE, CHAT, BOUND)}
        keys = KeyStore.open(folder / "device.key")
        outbox = Outbox(folder / "outbox.db", keys=keys, wire_ids=WireIds(keys.derive("wire-ids")))
        setup = Setup(
            model="m",
            prompt_sha256="p",
            preprocess_version="1",
            anonymizer_version="1",
            language="en",
        )
        self.agent = EdgeAgent(
            Parts(
                tasks=tasks,
                default_task="chat",
                model=self.model,
                anonymizer=anonymizer or SimulatedAnonymizer(),
                trust=Trust(setups=dict.fromkeys(tasks, setup)),
                cloud=cloud,
                delivery=Delivery(
                    outbox, cloud, settings=DeliverySettings(first_pause_s=0.01), jitter=lambda: 0.0
                ),
                metrics=Metrics(),
            )
        )


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, SimulatedCloud())
    yield bench
    bench.agent.close()


def test_sure_answers_stay_on_the_device(bench):
    answer = bench.agent.ask("sure: Smith", task="triage")
    assert (answer.route, answer.text, answer.sent_bytes) == (Route.LOCAL, "normal", 0)
    assert bench.cloud.received == []
    assert bench.model.seen == ["sure: [PERSON_1]"]  # both tiers see the same input


def test_unsure_answers_come_from_the_cloud_and_are_restored(bench):
    answer = bench.agent.ask("Smith has a cough")
    assert (answer.route, answer.text) == (Route.CLOUD, "No effusion. Smith is well.")
    assert answer.sent_bytes > 0
    assert answer.local.text == "local: Smith is well"
    assert [type(item) for item in bench.cloud.received] == [Anonymized]
    assert {"preprocess", "anonymize", "local_model", "router", "cloud", "restore", "total"} <= set(
        answer.latency_ms
    )


def test_unsafe_text_never_leaves_and_the_reason_says_why(bench):
    answer = bench.agent.ask("unsafe Smith")
    assert (answer.route, answer.text) == (Route.REFUSED, "")
    assert "PERSON" in answer.reason
    assert "Smith" not in answer.reason
    assert bench.cloud.received == []
    assert bench.agent.status().queued == 0


def test_unsafe_text_may_still_be_answered_here(bench):
    answer = bench.agent.ask("unsafe but sure", task="triage")
    assert (answer.route, answer.text) == (Route.LOCAL, "normal")


def test_without_language_pipelines_nothing_leaves_and_the_device_goes_on(tmp_path):
    closed = ClosedAnonymizer("the anonymizer's pipeline ner-en cannot be loaded")
    bench = Bench(tmp_path, SimulatedCloud(), closed)
    assert bench.agent.ask("sure: Smith", task="triage").route is Route.LOCAL
    refused = bench.agent.ask("Smith has a cough")
    assert refused.route is Route.REFUSED
    assert "ner-en cannot be loaded" in refused.reason
    assert bench.cloud.received == []
    bench.agent.close()


def test_a_cloud_that_is_away_means_an_answer_now_and_a_better_one_later(bench):
    bench.cloud.is_reachable = False
    answer = bench.agent.ask("Smith has a cough")
    assert (answer.route, answer.text) == (Route.QUEUED, "local: Smith is well")
    assert bench.agent.collect(answer.request_id) is None
    bench.cloud.is_reachable = True
    assert bench.agent.deliver(timeout_s=5) == 0
    better = bench.agent.collect(answer.request_id)
    assert (better.route, better.text) == (Route.CLOUD, "No effusion. Smith is well.")
    assert len(bench.cloud.effects) == 1
    with pytest.raises(InputError):
        bench.agent.collect(answer.request_id)


def test_what_the_cloud_refuses_for_good_is_an_error_and_waits_nowhere(bench):
    bench.cloud.errors = [InvalidRequestError("the request is too long")]
    with pytest.raises(InvalidRequestError):
        bench.agent.ask("Smith has a cough")
    assert bench.agent.status().queued == 0


def test_without_a_cloud_the_local_answer_is_flagged(tmp_path):
    bench = Bench(tmp_path, None)
    answer = bench.agent.ask("Smith has a cough")
    assert answer.route is Route.QUEUED
    assert "without a cloud" in answer.reason
    bench.agent.close()


def test_a_text_too_long_for_the_device_goes_to_the_cloud(bench):
    answer = bench.agent.ask("too long")
    assert answer.route is Route.CLOUD
    assert "longer than the local model's context" in answer.reason
    assert answer.confidence is None


def test_a_task_bound_to_the_device_is_refused_when_unsure(bench):
    answer = bench.agent.ask("a cough", task="bound")
    assert (answer.route, answer.text) == (Route.REFUSED, "")
    assert bench.cloud.received == []


def test_unknown_tasks_and_contradictions_are_input_errors(bench):
    with pytest.raises(InputError, match="bound, chat, triage"):
        bench.agent.ask("x", task="nope")
    with pytest.raises(InputError):
        bench.agent.ask(Request(id=new_request_id(), task="chat", text="x"), task="triage")
    with pytest.raises(InputError):
        bench.agent.ask("")


def pieces_of(stream):
    *texts, answer = stream
    assert all(isinstance(piece, str) for piece in texts)
    assert isinstance(answer, Answer)
    return texts, answer


def test_a_streamed_cloud_answer_is_restored_and_equals_the_whole(bench):
    texts, answer = pieces_of(bench.agent.stream("Smith has a cough"))
    assert len(texts) > 1
    assert "".join(texts) == answer.text == "No effusion. Smith is well."


def test_a_local_answer_that_may_be_rejected_is_not_shown_early(bench):
    texts, answer = pieces_of(bench.agent.stream("Smith: sure"))
    assert texts == ["local: Smith is well"]
    assert answer.route is Route.LOCAL


def test_a_local_answer_that_stands_anyway_is_streamed(tmp_path):
    bench = Bench(tmp_path, None)
    texts, answer = pieces_of(bench.agent.stream("Smith has a cough"))
    assert len(texts) > 1
    assert "".join(texts) == answer.text == "local: Smith is well"
    bench.agent.close()


class BreaksOff(SimulatedCloud):
    def generate(self, anonymized, **options):
        if options.get("on_text") is not None:
            options["on_text"]("No eff")
        raise UnavailableError("the cloud's answer broke off; try again")


def test_a_cloud_that_dies_mid_stream_leaves_what_was_shown_and_a_promise(tmp_path):
    bench = Bench(tmp_path, BreaksOff())
    texts, answer = pieces_of(bench.agent.stream("Smith has a cough"))
    assert "".join(texts) == answer.text == "No eff"
    assert answer.route is Route.QUEUED
    assert "the whole answer follows" in answer.reason
    assert bench.agent.status().queued == 1
    bench.agent.close()


def test_closing_a_stream_cancels_the_work(tmp_path):
    bench = Bench(tmp_path, None)
    stream = bench.agent.stream("Smith, please wait")
    next(stream)
    stream.close()
    assert all(thread.name != "tandem-stream" for thread in threading.enumerate())
    bench.agent.close()


def test_a_cancelled_request_is_stopped(bench):
    cancel = Cancellation()
    cancel.set()
    with pytest.raises(RequestStoppedError):
        bench.agent.ask("Smith has a cough", cancel=cancel)
    assert bench.cloud.received == []


def test_many_threads_share_one_agent(bench):
    def ask(number):
        name = f"Smith {number}"
        return bench.agent.ask(name, task="chat").text

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(64))) == {"No effusion. Smith is well."}
    assert len(bench.cloud.effects) == 64


def test_closing_closes_every_part(tmp_path):
    bench = Bench(tmp_path, SimulatedCloud())
    with bench.agent:
        pass
    bench.agent.close()
    assert bench.model.is_closed
    assert bench.cloud.is_closed


def test_no_log_line_holds_content(bench, caplog):
    caplog.set_level("DEBUG")
    bench.cloud.is_reachable = False
    bench.agent.ask("Smith has a cough")
    bench.agent.ask("unsafe Smith")
    bench.agent.ask("sure Smith", task="triage")
    assert caplog.text
    for word in ("Smith", "cough", "is well"):
        assert word not in caplog.text
