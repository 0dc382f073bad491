"""An agent whose certificate is watched: what an audit sends, what it changes, and what it never does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent import EdgeAgent, Route
from edge_agent.cloud.cloud import WireIds
from edge_agent.errors import InputError
from edge_agent.flow import LabelScore, LocalAnswer
from edge_agent.keystore import KeyStore
from edge_agent.metrics import Metrics
from edge_agent.outbox.delivery import Delivery, DeliverySettings
from edge_agent.outbox.outbox import Outbox
from edge_agent.parts import Parts
from edge_agent.trust import Trust
from edge_agent.vault import Vault
from partition.calibration.calibration import Claim, certify, divide
from partition.calibration.prompt_gate import PromptGate, prompt_vector
from partition.fingerprint import Setup
from partition.oversight.audit import AuditPlan
from partition.oversight.oversight import Oversight
from partition.oversight.oversight_file import OversightFile
from partition.task import Task, TaskKind
from tests.simulators import SimulatedCloud, make_anonymized
from tests.worlds import WORLD_B

TASK = Task(name="triage", kind=TaskKind.CLASSIFY, labels=("normal", "abnormal"))
SETUP = Setup(
    model="m", prompt_sha256="p", preprocess_version="1", anonymizer_version="1", language="en"
)
CERTIFICATE = certify(
    divide(
        tuple(
            replace(record, task="triage", setup=SETUP.sha256)
            for record in WORLD_B.draw(np.random.default_rng(3), 2000)
        )
    ),
    Claim(max_error=0.05, confidence=0.95),
)


class Anonymizer:
    version = "simulated"

    def anonymize(self, prepared):
        text = prepared.messages[-1].text
        return make_anonymized(text, request_id=prepared.request.id, task=prepared.task), Vault()


class Model:
    """Always finds the same label, with log-odds of about 5. The simulated cloud always finds "abnormal"."""

    fingerprint = "simulated-edge"

    def __init__(self, label: str) -> None:
        self.label = label

    def answer(self, messages, task, request, *, on_text=None, cancel=None):
        return LocalAnswer(
            text=self.label,
            token_log_probabilities=(-0.01,),
            label_scores=(
                LabelScore(label="normal", log_probability=-5.0),
                LabelScore(label="abnormal", log_probability=-0.01),
            ),
            num_input_tokens=5,
            num_output_tokens=1,
        )

    def close(self):
        pass


class Bench:
    def __init__(
        self,
        folder: Path,
        cloud: SimulatedCloud | None,
        *,
        rate: float = 1.0,
        label: str = "abnormal",
    ) -> None:
        self.cloud = cloud
        keys = KeyStore.open(folder / "device.key")
        self.oversight = Oversight(
            OversightFile(folder / "oversight.db"),
            plan=AuditPlan(secret=keys.derive("audit"), rate=rate),
            clock=lambda: 1_000_000.0,
        )
        outbox = Outbox(folder / "outbox.db", keys=keys, wire_ids=WireIds(keys.derive("wire-ids")))
        self.agent = EdgeAgent(
            Parts(
                tasks={"triage": TASK},
                default_task="triage",
                model=Model(label),
                anonymizer=Anonymizer(),
                trust=Trust(
                    setups={"triage": SETUP},
                    certificates={"triage": CERTIFICATE},
                    oversight=self.oversight,
                ),
                cloud=cloud,
                delivery=Delivery(
                    outbox,
                    cloud,
                    settings=DeliverySettings(first_pause_s=0.01),
                    judge=self.oversight.judged_by_text,
                    jitter=lambda: 0.0,
                ),
                metrics=Metrics(),
            )
        )

    @property
    def standing(self):
        return self.oversight.standing("triage")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, SimulatedCloud())
    yield bench
    bench.agent.close()


def test_an_audit_is_said_sent_later_and_leaves_nothing_behind(bench: Bench) -> None:
    answer = bench.agent.ask("clear lungs")
    assert (answer.route, answer.text, answer.sent_bytes) == (Route.LOCAL, "abnormal", 0)
    assert "audit by the cloud" in answer.reason
    assert bench.cloud.received == []  # the answer does not wait for it
    assert bench.standing.num_pending == 1
    assert bench.agent.deliver(timeout_s=5) == 0
    assert len(bench.cloud.received) == 1
    assert (bench.standing.num_audits, bench.standing.num_errors) == (1, 0)
    assert bench.standing.num_pending == 0
    with pytest.raises(InputError):  # nobody waits for the cloud's answer, so none is kept
        bench.agent.collect(answer.request_id)


def test_too_many_disagreements_send_the_task_to_the_cloud(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SimulatedCloud(), label="normal")
    for _ in range(2):
        assert bench.agent.ask("clear lungs").route is Route.LOCAL
        bench.agent.deliver(timeout_s=5)
    answer = bench.agent.ask("clear lungs")
    assert (answer.route, answer.text) == (Route.CLOUD, "abnormal")
    assert "audit alarm" in answer.reason
    bench.oversight.resume("triage")
    assert bench.agent.ask("clear lungs").route is Route.LOCAL
    bench.agent.close()


def test_audits_wait_for_a_cloud_that_is_away(bench: Bench) -> None:
    bench.cloud.is_reachable = False
    assert bench.agent.ask("clear lungs").route is Route.LOCAL
    assert bench.agent.deliver(timeout_s=0.2) == 1
    assert bench.standing.num_pending == 1
    bench.cloud.is_reachable = True
    assert bench.agent.deliver(timeout_s=5) == 0
    assert bench.standing.num_audits == 1


def test_without_a_cloud_nothing_is_audited(tmp_path: Path) -> None:
    bench = Bench(tmp_path, None)
    answer = bench.agent.ask("clear lungs")
    assert answer.route is Route.LOCAL
    assert "audit" not in answer.reason
    assert bench.standing.num_pending == 0
    bench.agent.close()


def test_only_the_drawn_share_is_sent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SimulatedCloud(), rate=0.1)
    reasons = [bench.agent.ask("clear lungs").reason for _ in range(100)]
    bench.agent.deliver(timeout_s=20)
    audited = sum("audit" in reason for reason in reasons)
    assert audited == len(bench.cloud.received) == bench.standing.num_audits
    assert 1 <= audited <= 30
    bench.agent.close()


class _CountingModel(Model):
    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.num_asked = 0

    def answer(self, *arguments, **named):
        self.num_asked += 1
        return super().answer(*arguments, **named)


def gated_agent(folder: Path, cloud: SimulatedCloud) -> tuple[EdgeAgent, _CountingModel]:
    """An agent whose gate stops every request that begins like the word "hard" hashes."""
    stop = np.array(prompt_vector("hard"))
    gate = PromptGate(task="triage", weights=tuple((-stop).tolist()), intercept=0.5, least=0.0)
    records = tuple(
        replace(record, task="triage", setup=SETUP.sha256)
        for record in WORLD_B.draw(np.random.default_rng(3), 2000)
    )
    certificate = certify(
        divide(records), Claim(max_error=0.05, confidence=0.95), gate_sha256=gate.sha256
    )
    keys, model = KeyStore.open(folder / "device.key"), _CountingModel("normal")
    outbox = Outbox(folder / "outbox.db", keys=keys, wire_ids=WireIds(keys.derive("wire-ids")))
    return (
        EdgeAgent(
            Parts(
                tasks={"triage": TASK},
                default_task="triage",
                model=model,
                anonymizer=Anonymizer(),
                trust=Trust(
                    setups={"triage": SETUP},
                    certificates={"triage": certificate},
                    gates={"triage": gate},
                ),
                cloud=cloud,
                delivery=Delivery(outbox, cloud, settings=DeliverySettings(first_pause_s=0.01)),
                metrics=Metrics(),
            )
        ),
        model,
    )


def test_gate_sends_on_without_asking_the_local_model(tmp_path: Path) -> None:
    agent, model = gated_agent(tmp_path, SimulatedCloud())
    answer = agent.ask("hard")
    assert (answer.route, answer.text, model.num_asked) == (Route.CLOUD, "abnormal", 0)
    assert "the gate" in answer.reason
    assert agent.ask("easy").route is Route.LOCAL
    assert model.num_asked == 1
    agent.close()


def test_what_the_gate_stopped_never_stands_by_itself(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    cloud.is_reachable = False
    agent, model = gated_agent(tmp_path, cloud)
    answer = agent.ask("hard")  # sure of itself, but the certificate does not speak of it
    assert (answer.route, answer.text, model.num_asked) == (Route.QUEUED, "normal", 1)
    agent.close()


def test_gate_without_its_certificate_is_not_used(tmp_path: Path) -> None:
    gate = PromptGate(task="triage", weights=(0.0,) * 1024, intercept=-1.0, least=0.0)
    trust = Trust(
        setups={"triage": SETUP}, certificates={"triage": CERTIFICATE}, gates={"triage": gate}
    )
    assert trust.gate(TASK) is None
    assert "gate" in trust.verdict(TASK).why_no_certificate
