"""An agent with a budget: what it may spend, what gives way, what a restart remembers, and what is billed in the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent import EdgeAgent, Route
from edge_agent.cloud.cloud import WireIds
from edge_agent.config import BudgetConfig, EdgeConfig, load_config
from edge_agent.errors import ConfigError
from edge_agent.flow import LabelScore, LocalAnswer, Usage
from edge_agent.keystore import KeyStore
from edge_agent.metrics import Metrics
from edge_agent.outbox.delivery import Delivery, DeliverySettings
from edge_agent.outbox.outbox import Outbox
from edge_agent.parts import Parts
from edge_agent.purse import Purse
from edge_agent.supervision import open_supervision
from edge_agent.trust import Trust
from edge_agent.vault import Vault
from partition.errors import SettingsError
from partition.fingerprint import Setup
from partition.oversight.budget import BudgetPolicy, GivesWay
from partition.oversight.oversight_file import OversightFile
from partition.oversight.spending_book import SpendingBook
from partition.task import Policy, Task, TaskKind
from tests.simulators import Clock, SimulatedCloud, make_anonymized

# A local probability of 1/2 is below 0.9: everything wants to go to the cloud.
TASK = Task(
    name="triage",
    kind=TaskKind.CLASSIFY,
    labels=("normal", "abnormal"),
    policy=Policy(local_threshold=0.9),
)
SETUP = Setup(
    model="m", prompt_sha256="p", preprocess_version="1", anonymizer_version="1", language="en"
)
PRICES = BudgetConfig(
    daily_usd=1.0, usd_per_million_input_tokens=3.0, usd_per_million_output_tokens=15.0
)


class Anonymizer:
    version = "simulated"

    def anonymize(self, prepared):
        text = prepared.messages[-1].text
        return make_anonymized(text, request_id=prepared.request.id, task=prepared.task), Vault()


class Model:
    """Cannot tell the labels apart; counts how often it is asked."""

    fingerprint = "simulated-edge"

    def __init__(self) -> None:
        self.num_asked = 0

    def answer(self, messages, task, request, *, on_text=None, cancel=None):
        self.num_asked += 1
        return LocalAnswer(
            text="normal",
            token_log_probabilities=(-0.7,),
            label_scores=tuple(
                LabelScore(label=label, log_probability=-0.7) for label in task.labels
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
        *,
        daily_micro_usd: int = 10_000,
        gives_way: GivesWay = GivesWay.QUEUE,
        policy: Policy = TASK.policy,
    ) -> None:
        self.folder, self.clock, self.cloud, self.model = folder, Clock(), SimulatedCloud(), Model()
        self.policy = BudgetPolicy(
            daily_micro_usd=daily_micro_usd, audit_ratio=0.0, gives_way=gives_way
        )
        self.task = replace(TASK, policy=policy)
        self.agent = self.open()

    @property
    def book(self) -> SpendingBook:
        return SpendingBook(
            OversightFile(self.folder / "o.db"), policy=self.policy, clock=self.clock
        )

    def open(self) -> EdgeAgent:
        keys = KeyStore.open(self.folder / "device.key")
        purse = Purse(self.book, PRICES, is_audit=lambda request_id: False)
        outbox = Outbox(
            self.folder / "outbox.db", keys=keys, wire_ids=WireIds(keys.derive("wire-ids"))
        )
        return EdgeAgent(
            Parts(
                tasks={"triage": self.task},
                default_task="triage",
                model=self.model,
                anonymizer=Anonymizer(),
                trust=Trust(setups={"triage": SETUP}),
                cloud=self.cloud,
                delivery=Delivery(
                    outbox,
                    self.cloud,
                    settings=DeliverySettings(first_pause_s=0.01),
                    purse=purse,
                    jitter=lambda: 0.0,
                ),
                metrics=Metrics(),
                purse=purse,
            )
        )

    def spend_everything(self) -> None:
        left = self.policy.daily_micro_usd - self.book.today.spent_micro_usd
        self.book.correct(expected_micro_usd=0, billed_micro_usd=left, is_audit=False)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.agent.close()


def test_what_was_billed_takes_the_place_of_what_was_expected(bench: Bench) -> None:
    assert bench.agent.ask("clear lungs").route is Route.CLOUD
    assert bench.book.today.spent_micro_usd == 15  # as the simulated cloud bills it


def test_a_cloud_that_sends_no_bill_costs_by_the_operators_prices(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    purse = Purse(bench.book, PRICES, is_audit=lambda request_id: False)
    grant = purse.ask(num_bytes=300, max_output_tokens=10)
    assert (grant.why_not, grant.cost_micro_usd) == ("", 100 * 3 + 10 * 15)
    purse.settle(grant, Usage(input_tokens=7, output_tokens=2))
    assert bench.book.today.spent_micro_usd == 7 * 3 + 2 * 15
    bench.agent.close()


def test_what_never_left_costs_nothing(bench: Bench) -> None:
    bench.cloud.is_reachable = False
    assert bench.agent.ask("clear lungs").route is Route.QUEUED
    assert bench.book.today.spent_micro_usd == 0


@pytest.mark.parametrize(
    ("gives_way", "route", "flagged"),
    [
        (GivesWay.REFUSE, Route.REFUSED, False),
        (GivesWay.FLAG, Route.LOCAL, True),
        (GivesWay.QUEUE, Route.QUEUED, False),
    ],
)
def test_the_operator_chooses_what_gives_way(
    tmp_path: Path, gives_way: GivesWay, route: Route, flagged: bool
) -> None:
    bench = Bench(tmp_path, gives_way=gives_way)
    bench.spend_everything()
    answer = bench.agent.ask("clear lungs")
    assert (answer.route, answer.flagged) == (route, flagged)
    assert "the day's budget is spent" in answer.reason
    assert bench.cloud.received == []
    bench.agent.close()


def test_a_flag_cannot_override_the_policy(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gives_way=GivesWay.FLAG, policy=Policy(may_stay_local=False))
    bench.spend_everything()
    assert bench.agent.ask("clear lungs").route is Route.REFUSED
    bench.agent.close()


def test_hard_stop_survives_a_restart_and_ends_with_the_day(bench: Bench) -> None:
    bench.spend_everything()
    assert bench.agent.ask("clear lungs").route is Route.QUEUED
    bench.agent.close()
    bench.agent = bench.open()
    assert bench.agent.ask("clear lungs").route is Route.QUEUED
    bench.clock.advance(86_400)
    assert bench.agent.ask("clear lungs").route is Route.CLOUD


def test_what_is_queued_for_the_budget_is_not_delivered_without_it(bench: Bench) -> None:
    bench.spend_everything()
    answer = bench.agent.ask("clear lungs")
    assert bench.agent.deliver(timeout_s=0.3) == 1
    assert bench.cloud.received == []
    assert bench.agent.collect(answer.request_id) is None


def test_deliveries_are_paid_from_the_same_budget(bench: Bench) -> None:
    bench.cloud.is_reachable = False
    bench.agent.ask("clear lungs")
    bench.cloud.is_reachable = True
    assert bench.agent.deliver(timeout_s=5) == 0
    assert bench.book.today.spent_micro_usd == 15


def test_a_day_never_costs_more_than_its_budget(tmp_path: Path) -> None:
    bench = Bench(tmp_path, daily_micro_usd=4200, gives_way=GivesWay.FLAG)
    routes = [bench.agent.ask("clear lungs").route for _ in range(60)]
    assert bench.book.today.spent_micro_usd <= 4200
    assert 0 < routes.count(Route.CLOUD) == len(bench.cloud.received) < 60
    bench.agent.close()


def test_a_book_that_cannot_be_read_stops_spending(bench: Bench) -> None:
    (bench.folder / "o.db").write_bytes(b"no database" * 100)
    for name in ("o.db-wal", "o.db-shm"):
        (bench.folder / name).unlink(missing_ok=True)
    answer = bench.agent.ask("clear lungs")
    assert answer.route is Route.QUEUED
    assert "is not known" in answer.reason
    assert bench.cloud.received == []


# --- an answer that could not stand is not asked for


THROWN_AWAY = Policy(allow_uncertified=False)


def test_local_model_is_not_asked_where_its_answer_cannot_stand(tmp_path: Path) -> None:
    bench = Bench(tmp_path, policy=THROWN_AWAY)
    answer = bench.agent.ask("clear lungs")
    assert (answer.route, answer.local, bench.model.num_asked) == (Route.CLOUD, None, 0)
    assert "allow_uncertified = false" in answer.reason
    bench.agent.close()


def test_local_model_is_asked_where_the_cloud_lets_the_request_down(tmp_path: Path) -> None:
    bench = Bench(tmp_path, policy=THROWN_AWAY)
    bench.cloud.is_reachable = False  # which nobody knows yet
    answer = bench.agent.ask("clear lungs")
    assert (answer.route, answer.text, bench.model.num_asked) == (Route.QUEUED, "normal", 1)
    bench.spend_everything()
    assert bench.agent.ask("clear lungs").text == "normal"
    bench.agent.close()


def test_records_have_a_local_answer_all_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path, policy=THROWN_AWAY)
    request = replace(bench.agent._as_request("clear lungs", None), needs_local=True)
    assert bench.agent.ask(request).local is not None
    bench.agent.close()


# --- configuration


def settings(folder: Path, text: str) -> EdgeConfig:
    (folder / "edge.toml").write_text(f'state_folder = "{folder}"\n{text}')
    return load_config(folder / "edge.toml", environment={})


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("", (False, False, False)),
        ("[audit]\nrate = 0.02", (True, False, False)),
        ('[audit]\nrate = 0.02\nby = "person"', (True, True, False)),
        ("[budget]\ndaily_usd = 2\nusd_per_million_input_tokens = 0.2", (False, False, True)),
    ],
)
def test_only_what_is_configured_is_watched(
    tmp_path: Path, text: str, has: tuple[bool, bool, bool]
) -> None:
    found: Any = open_supervision(settings(tmp_path, text), KeyStore.open(tmp_path / "device.key"))
    assert (
        found.oversight is not None,
        found.desk is not None,
        found.purse is not None,
    ) == has
    assert (tmp_path / "oversight.db").exists() == any(has)


def test_a_budget_without_prices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="usd_per_million"):
        settings(tmp_path, "[budget]\ndaily_usd = 2")


def test_an_adaptive_threshold_without_audits_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path, '[adaptive]\ntasks = ["triage"]')
    with pytest.raises(ConfigError, match=r"\[audit\]"):
        open_supervision(config, KeyStore.open(tmp_path / "device.key"))
