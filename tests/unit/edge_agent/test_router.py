"""The router is a pure function, so its test is a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.flow import Confidence, Route
from edge_agent.router import Situation, Threshold, decide
from partition.task import Policy, WhenUnreachable

SURE = Confidence(probability=0.95, score=3.0)
UNSURE = Confidence(probability=0.5, score=0.0)
ONLINE = Situation()
OFFLINE = Situation(why_no_cloud="the cloud cannot be reached")
IDENTIFIABLE = Situation(why_not_anonymized="residual scan still sees a PERSON")
CERTIFIED = Situation(threshold=Threshold(certificate="error at most 0.05", least_score=2.0))


@pytest.mark.parametrize(
    ("confidence", "policy", "situation", "route", "word"),
    [
        (SURE, Policy(), ONLINE, Route.LOCAL, "uncertified"),
        (SURE, Policy(), OFFLINE, Route.LOCAL, "confidence reaches"),
        (SURE, Policy(), IDENTIFIABLE, Route.LOCAL, "confidence reaches"),
        (SURE, Policy(), CERTIFIED, Route.LOCAL, "certified threshold"),
        (UNSURE, Policy(), CERTIFIED, Route.CLOUD, "below the certified threshold"),
        (UNSURE, Policy(), ONLINE, Route.CLOUD, "below 0.9"),
        (UNSURE, Policy(local_threshold=0.5), ONLINE, Route.LOCAL, "reaches 0.5"),
        (None, Policy(), ONLINE, Route.CLOUD, "no local answer"),
        (SURE, Policy(may_stay_local=False), ONLINE, Route.CLOUD, "may_stay_local"),
        (SURE, Policy(allow_uncertified=False), ONLINE, Route.CLOUD, "allow_uncertified"),
        (UNSURE, Policy(), OFFLINE, Route.QUEUED, "queued for a better answer"),
        (
            UNSURE,
            Policy(when_unreachable=WhenUnreachable.REFUSE),
            OFFLINE,
            Route.REFUSED,
            "when_unreachable",
        ),
        (UNSURE, Policy(may_leave_device=False), ONLINE, Route.REFUSED, "may_leave_device"),
        (UNSURE, Policy(), IDENTIFIABLE, Route.REFUSED, "PERSON"),
        (None, Policy(may_leave_device=False), OFFLINE, Route.REFUSED, "no local answer"),
    ],
)
def test_table(confidence, policy, situation, route, word):
    decision = decide(confidence, policy, situation)
    assert decision.route is route
    assert word in decision.reason


@given(
    confidence=st.none()
    | st.builds(Confidence, probability=st.floats(0, 1), score=st.floats(-9, 9)),
    policy=st.builds(
        Policy,
        local_threshold=st.floats(0, 1),
        may_leave_device=st.booleans(),
        may_stay_local=st.booleans(),
        allow_uncertified=st.booleans(),
        when_unreachable=st.sampled_from(WhenUnreachable),
    ),
    situation=st.builds(
        Situation,
        why_no_cloud=st.sampled_from(["", "no network"]),
        why_not_anonymized=st.sampled_from(["", "it timed out"]),
        threshold=st.none() | st.builds(Threshold, least_score=st.floats(-9, 9)),
    ),
)
def test_laws(confidence, policy, situation):
    route = decide(confidence, policy, situation).route
    leaves = route in {Route.CLOUD, Route.QUEUED}
    assert not (leaves and (situation.why_not_anonymized or not policy.may_leave_device))
    assert not (route is Route.CLOUD and situation.why_no_cloud)
    assert not (route is Route.LOCAL and (confidence is None or not policy.may_stay_local))
    if route is Route.LOCAL and situation.threshold is not None:
        assert confidence.score >= situation.threshold.least_score
