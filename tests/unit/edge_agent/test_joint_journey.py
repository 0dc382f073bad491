"""A request through the whole agent when VERIFY or SPLIT is on: the route it gets, the text it streams, and what falls back to the cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent import EdgeAgent, Route
from edge_agent.cloud.cloud import CloudAnswer, FinishReason
from edge_agent.flow import Usage
from tests.simulators import SimulatedCloud
from tests.unit.edge_agent.test_agent import Bench

TEXT = "No effusion. [PERSON_1] is well."  # what the simulated cloud says


class SimulatedRoute:
    """Shows a part of the text, and has either all of it or leaves the rest to the cloud."""

    def __init__(self, shown: str, route: Route) -> None:
        self.shown = shown
        self.route = route
        self.num_tried = 0

    def try_answer(
        self,
        model: Any,
        anonymized: Any,
        options: Any,
        *,
        deadline_s: float,
        on_text: Callable[[str], None],
        cancel: Any,
        on_sent: Callable[[int], None],
    ) -> CloudAnswer | str:
        self.num_tried += 1
        on_sent(100)
        if self.shown:
            on_text(self.shown)
        if self.shown != TEXT:
            return self.shown
        return CloudAnswer(
            text=TEXT,
            model="",
            fingerprint="large-1",
            finish_reason=FinishReason.STOP,
            usage=Usage(output_tokens=9),
            sent_bytes=100,
            route=self.route,
        )


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    bench = Bench(tmp_path, SimulatedCloud())

    def asked(
        shown: str,
        question: str = "doubtful: Smith",
        task: str = "chat",
        route: Route = Route.VERIFY,
    ) -> Any:
        simulated = SimulatedRoute(shown, route)
        parts = replace(bench.agent._parts, joint=simulated)
        streamed: list[str] = []
        answer = EdgeAgent(parts).ask(question, task=task, on_text=streamed.append)
        return answer, "".join(streamed), simulated, bench.cloud

    yield asked
    bench.agent.close()


@pytest.mark.parametrize("route", [Route.VERIFY, Route.SPLIT])
def test_a_joint_answer_is_restored_and_says_so(ask: Callable[..., Any], route: Route) -> None:
    answer, streamed, _, cloud = ask(TEXT, route=route)
    assert answer.route is route
    assert answer.text == streamed == "No effusion. Smith is well."
    assert answer.model == "large-1"
    assert answer.sent_bytes == 100
    assert cloud.received == []


@pytest.mark.parametrize("shown", ["", "No effusion. [PER", "No effusion. [PERSON_1] is"])
def test_the_cloud_streams_the_rest_of_the_same_text(ask: Callable[..., Any], shown: str) -> None:
    answer, streamed, _, cloud = ask(shown)
    assert answer.route is Route.CLOUD
    assert answer.text == streamed == "No effusion. Smith is well."
    assert len(cloud.received) == 1


def test_labels_are_not_drafted(ask: Callable[..., Any]) -> None:
    _, _, route, cloud = ask(TEXT, task="triage")
    assert route.num_tried == 0
    assert len(cloud.received) == 1


def test_a_sure_answer_stays_on_the_device(ask: Callable[..., Any]) -> None:
    answer, _, route, _ = ask(TEXT, question="sure: Smith")
    assert answer.route is Route.LOCAL
    assert route.num_tried == 0
