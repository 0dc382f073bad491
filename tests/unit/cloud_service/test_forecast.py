"""What steps cost is learnt, and a request that cannot be done in time is refused before anybody waits for it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.engine.admission import MARGIN, Admission
from cloud_service.engine.forecast import (
    NUM_ANSWERS_NEEDED,
    NUM_STEPS_NEEDED,
    AnswerLengths,
    Demand,
    StepCosts,
    foretell,
)
from cloud_service.engine.job import Job, JobEnd
from cloud_service.engine.sequence import Owner, Sequence
from partition.generation.sampling import SamplingRule
from protos.errors import QuotaExceededError

A_S, B_S, C_S = 0.01, 0.0005, 0.002  # of a step, a position, a sequence


def took_s(positions: int, sequences: int) -> float:
    return A_S + B_S * positions + C_S * sequences


def learnt() -> StepCosts:
    costs, chance = StepCosts(), random.Random(1)
    for _ in range(200):
        n, m = chance.choice((1, 4, 16, 64, 256)), chance.choice((1, 2, 8))
        costs.learn(n, m, took_s(n, m) * chance.uniform(0.9, 1.1))
    return costs


def test_costs_are_learnt_and_follow_a_change() -> None:
    costs = learnt()
    assert costs.per_step_s == pytest.approx(A_S, rel=0.5)
    assert costs.per_position_s == pytest.approx(B_S, rel=0.1)
    assert costs.per_sequence_s == pytest.approx(C_S, rel=0.5)
    room = costs.positions_in(0.1, 8)
    assert room is not None
    assert took_s(room, 8) == pytest.approx(0.1, rel=0.15)
    for n in (1, 16, 64, 256) * 60:
        costs.learn(n, n % 7, 3 * took_s(n, n % 7))
    assert costs.per_position_s == pytest.approx(3 * B_S, rel=0.1)


def test_steps_of_one_size_do_not_make_it_lose_its_head() -> None:
    costs = StepCosts()
    for _ in range(20_000):
        costs.learn(8, 8, took_s(8, 8))
    told_s = costs.per_step_s + 8 * costs.per_position_s + 8 * costs.per_sequence_s
    assert told_s == pytest.approx(took_s(8, 8), rel=0.05)
    costs.learn(64, 1, took_s(64, 1))
    assert 0 <= costs.per_position_s < 1


def test_lengths_are_told_only_when_some_were_seen() -> None:
    lengths = AnswerLengths()
    for _ in range(NUM_ANSWERS_NEEDED - 1):
        lengths.learn(20)
    assert lengths.expected(100) == 1
    lengths.learn(20)
    assert lengths.expected(100) == 20
    assert lengths.expected(7) == 7


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 500), st.integers(1, 100)),
        min_size=8,
        max_size=60,
    ),
    st.integers(1, 8),
)
def test_more_work_in_front_never_shortens_the_wait(work: list[Any], num_slots: int) -> None:
    costs, own = learnt(), Demand(tenant="a", num_prompt=100, num_answer=20)
    demands = [Demand(tenant=t, num_prompt=p, num_answer=n) for t, p, n in work]
    before = foretell(costs, demands, own, num_slots=num_slots)
    more = Demand(tenant="a", num_prompt=50, num_answer=10)
    after = foretell(costs, [*demands, more], own, num_slots=num_slots)
    assert before is not None
    assert after is not None
    assert after.total_s >= before.total_s * 0.999
    assert before.total_s >= before.own_s > 0


def test_a_flood_of_another_tenant_costs_no_more_than_ones_own_turn() -> None:
    costs, own = learnt(), Demand(tenant="polite", num_prompt=100, num_answer=20)
    flood = [Demand(tenant="flood", num_prompt=100, num_answer=20)] * 200
    polite = foretell(costs, flood, own, num_slots=8)
    flooder = foretell(
        costs, flood, Demand(tenant="flood", num_prompt=100, num_answer=20), num_slots=8
    )
    assert polite is not None
    assert flooder is not None
    assert polite.total_s < flooder.total_s / 20


def job(deadline_s: float) -> Job:
    class Listener:
        def on_token(self, token_id: int) -> bool:
            return False

        def on_end(self, outcome: object) -> None:
            pass

    return Job(
        tenant="a",
        prompt_ids=(1,) * 100,
        max_output_tokens=50,
        sampling=SamplingRule(),
        end_ids=frozenset(),
        deadline_s=deadline_s,
        listener=Listener(),
    )


def sequences(count: int) -> list[Sequence]:
    owner = Owner(tenant="a", deadline_s=1e9, arrived_s=0.0, num_expected=50)
    return [
        Sequence(owner=owner, number=at, ids=[1] * 100, num_rows=1, program=None)  # type: ignore[arg-type]
        for at in range(count)
    ]


def test_a_refusal_names_the_time_after_which_it_would_have_gone_well() -> None:
    admission = Admission(num_slots=8)
    full = sequences(100)
    admission.check(job(0.01), full, (), 0.0)  # nothing is known yet: let in
    chance = random.Random(2)
    for _ in range(NUM_STEPS_NEEDED * 5):
        n, m = chance.choice((8, 64, 256)), chance.choice((1, 4, 8))
        admission.stepped(n, m, took_s(n, m))
    for _ in range(NUM_ANSWERS_NEEDED):
        admission.ended(job(1.0), 50, JobEnd.LENGTH)
    with pytest.raises(QuotaExceededError) as caught:
        admission.check(job(3.0), full, (), 0.0)
    assert caught.value.quota == "deadline"
    wait_s = caught.value.retry_after_s
    assert wait_s is not None
    front_s = 100 * (B_S * 150 + C_S * 50 + A_S * 50 / 8)
    own_s = B_S * 100 * 8 + 50 * (A_S + 8 * (B_S + C_S))  # and seven prompts that take turns
    late_s = MARGIN * (front_s + own_s) - 3.0
    assert wait_s == pytest.approx(min(late_s, front_s), rel=0.1)
    admission.check(job((front_s + own_s) * 1.1 * MARGIN), full, (), 0.0)  # time enough
    admission.check(job(3.0), sequences(3), (), 0.0)  # little is in front
    admission.check(job(0.1), [], (), 0.0)  # nothing is: it is let try
    with pytest.raises(QuotaExceededError):  # many came since the engine last looked
        admission.check(job(3.0), sequences(3), [job(3.0)] * 30, 0.0)
    admission.check(job(float("inf")), full, (), 0.0)


def test_a_tenant_alone_runs_in_its_own_slots_only() -> None:
    costs, own = learnt(), Demand(tenant="a", num_prompt=100, num_answer=20)
    front = [own] * 40
    few = foretell(costs, front, own, num_slots=8, tenant_slots=6)
    all_slots = foretell(costs, front, own, num_slots=8)
    shared = foretell(
        costs,
        [*front, *[Demand(tenant="b", num_prompt=1, num_answer=1)] * 40],
        own,
        num_slots=8,
        tenant_slots=6,
    )
    assert few is not None
    assert all_slots is not None
    assert shared is not None
    assert few.wait_s == pytest.approx(all_slots.wait_s + 40 * 20 * A_S * (1 / 6 - 1 / 8), rel=0.05)
    assert few.own_s < shared.own_s < all_slots.own_s
