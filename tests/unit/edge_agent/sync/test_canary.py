"""Canaries: a planted identifier that would leave stops a release before it answers."""

import json

import pytest

from edge_agent.anonymize.anonymizer import Anonymizer
from edge_agent.sync.boot import start
from edge_agent.sync.canary_run import show_canaries
from edge_agent.sync.process_gate import ProcessGate
from edge_agent.sync.records import State
from partition.errors import ManifestError
from partition.release.canary import BUILT_IN, Canary, parse_canaries
from partition.task import Task, TaskKind

TASK = Task(name="t", kind=TaskKind.CLASSIFY, labels=("normal", "abnormal"))
NUMBERS = Canary(
    id="numbers",
    language="en",
    text="MRN 00482913, mail m.whitfield@example.org, the lungs are clear.",
    identifiers=("00482913", "m.whitfield@example.org"),
)
NAME = Canary(id="name", language="en", text="whitfield says hello", identifiers=("Whitfield",))
OTHER = Canary(id="other", language="pt", text="olá", identifiers=("olá",))


def document(**changes):
    sentence = {"id": "a", "language": "en", "text": "call 12345", "identifiers": ["12345"]}
    return json.dumps({"schema": 1, "sentences": [{**sentence, **changes}]}).encode()


def test_what_is_masked_missed_and_refused_is_told_apart():
    anonymizer = Anonymizer({"en": ()}, version="patterns alone", timeout_s=60)
    result = show_canaries(anonymizer, {"t": TASK}, (NUMBERS, NAME, OTHER))
    assert result.missed == ("t/name",)
    assert (result.num_masked, result.num_refused) == (1, 1)


def test_built_in_sentences_plant_what_they_say():
    for canary in BUILT_IN:
        assert canary.left_in(canary.text) == len(canary.identifiers) >= 4
        assert canary.left_in("") == 0
        assert canary.text not in repr(canary)


@pytest.mark.parametrize(
    "data", [b"", b"{}", document(language="xx"), document(identifiers=["999"]), document(more=1)]
)
def test_malformed_canaries_are_refused(data):
    with pytest.raises(ManifestError):
        parse_canaries(data)


def test_canaries_of_a_release_in_a_process_of_their_own(tmp_path):
    """With the Portuguese pipeline, which comes with the program."""
    gate = ProcessGate(
        factory_model=tmp_path,
        threads=1,
        context_tokens=128,
        max_memory_mb=4096,
        cache=tmp_path / "stages",
        store=tmp_path / "cache",
        languages=("pt",),
    )
    assert gate.check_canaries(tmp_path).passed
    text = "Paciente com pulmões limpos."
    (tmp_path / "canary.json").write_bytes(
        document(id="mine", language="pt", text=text, identifiers=["pulmões"])
    )
    verdict = gate.check_canaries(tmp_path)
    assert (verdict.passed, verdict.kind) == (False, "anonymizer")
    assert "mine" in verdict.reason
    assert "pulmões" not in verdict.reason
    (tmp_path / "canary.json").write_bytes(b"torn")
    verdict = gate.check_canaries(tmp_path)
    assert (verdict.passed, verdict.kind) == (False, "gate")


def test_release_that_lets_an_identifier_through_never_answers(world):
    client = world.confirmed("cxr-1", b"model")
    world.gate.masks = False
    world.release("cxr-2", b"other model")
    result = client.run_cycle()
    assert (result.running, result.error_kind) == ("cxr-1", "anonymizer")
    assert client.journal.record("cxr-2").state is State.FAILED
    assert start(world.folder).release == "cxr-1"
    reported = world.cloud.reports[-1][1]
    assert (reported.release, reported.state, reported.error_kind) == (
        "cxr-2",
        "FAILED",
        "anonymizer",
    )
