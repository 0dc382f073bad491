"""`partition advise`: costs by hand, break-evens where both cost the same, ratings, and inputs that are wrong."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.advice.advice_inputs import AdviceInputs, Price, PriceList, load_inputs
from partition.advice.advice_report import to_json, to_markdown
from partition.advice.advise_command import advise as advise_command
from partition.advice.advisor import advise, break_evens
from partition.advice.deployment import Deployment, monthly_cost
from partition.advice.measured import with_certificate, with_profile
from partition.calibration.certificate import Certificate, Status
from partition.cli import main
from partition.errors import ProfileError
from partition.planning.profile import DeviceProfile, load_profile, save_profile
from tests.plan_scenarios import CLOUD, EDGE, LINK

INPUTS = load_inputs()


def test_a_month_by_hand() -> None:
    hybrid = monthly_cost(INPUTS, Deployment.HYBRID, 30_000)
    assert hybrid.devices == pytest.approx(10 * 600 / 48)
    assert hybrid.energy == pytest.approx(30_000 * 3 * 45 / 3.6e6 * 0.15)
    assert hybrid.cloud == pytest.approx(6_000 * (400 * 0.5 + 120 * 1.5) / 1e6)
    assert hybrid.network == pytest.approx(6_000 * (4.5 * 520 + 90 * 121) / 1e9 * 0.09)
    assert hybrid.staff == pytest.approx(0.5 * 10_000)
    assert hybrid.set_up == pytest.approx(60 * 10_000 / 21 / 36)
    assert hybrid.total == pytest.approx(
        hybrid.devices
        + hybrid.energy
        + hybrid.cloud
        + hybrid.network
        + hybrid.staff
        + hybrid.set_up
    )
    local = monthly_cost(INPUTS, Deployment.LOCAL, 30_000)
    assert (local.cloud, local.network) == (0, 0)
    cloud = monthly_cost(INPUTS, Deployment.CLOUD, 30_000)
    assert (cloud.devices, cloud.energy) == (0, 0)


def test_more_work_needs_more_devices_and_instances() -> None:
    by_instance = replace(INPUTS, cloud=replace(INPUTS.cloud, billing="instances"))
    one = monthly_cost(by_instance, Deployment.CLOUD, 1000).cloud
    assert one == pytest.approx(730 * 0.9)
    capacity = 2.0 * 0.4 * 3600 * 730
    assert monthly_cost(by_instance, Deployment.CLOUD, 2.5 * capacity).cloud == pytest.approx(
        3 * one
    )
    per_device = 3600 * 730 * 0.3 / 3.0
    devices = monthly_cost(INPUTS, Deployment.LOCAL, 12.5 * per_device).devices
    assert devices == pytest.approx(13 * 600 / 48)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0.01, 50),
    st.floats(0, 5),
    st.floats(0, 5),
    st.floats(0, 0.99),
    st.sampled_from(["tokens", "instances"]),
)
def test_break_even_is_where_the_cheaper_one_changes(
    price: float, local_staff: float, cloud_staff: float, share: float, billing: str
) -> None:
    prices = replace(
        INPUTS.prices,
        output_usd_per_million_tokens=Price(value=price, dated="2026-11", source="a test"),
    )
    inputs = replace(
        INPUTS,
        prices=prices,
        local=replace(INPUTS.local, full_time_staff=local_staff),
        cloud=replace(INPUTS.cloud, full_time_staff=cloud_staff, billing=billing),
        hybrid=replace(INPUTS.hybrid, local_share=share),
    )
    for point in break_evens(inputs):

        def gap(
            volume: float,
            below: Deployment = point.cheaper_below,
            above: Deployment = point.cheaper_above,
        ) -> float:
            return (
                monthly_cost(inputs, above, volume).total
                - monthly_cost(inputs, below, volume).total
            )

        crossing = point.requests_per_month
        assert gap(crossing) <= 1e-6
        # Costs jump with each further device, so two may change places more than once within a thousandth.
        assert any(gap(crossing / (1 + 0.001 * step / 100)) >= -1e-6 for step in range(1, 101))


def test_what_may_not_leave_stays() -> None:
    rules = replace(INPUTS.requirements, raw_text_may_leave=False, anonymised_text_may_leave=False)
    advice = advise(replace(INPUTS, requirements=rules))
    assert advice.recommended is Deployment.LOCAL
    assert "not even anonymised" in advice.reason


def test_offline_rules_the_cloud_out() -> None:
    rules = replace(INPUTS.requirements, must_work_offline=True)
    advice = advise(replace(INPUTS, requirements=rules))
    assert advice.recommended in (Deployment.LOCAL, Deployment.HYBRID)
    assert "must work without a network" in advice.reason


def test_requirements_that_nothing_meets_are_named() -> None:
    rules = replace(INPUTS.requirements, least_quality=0.999)
    advice = advise(replace(INPUTS, requirements=rules))
    assert advice.recommended is None
    assert "Relax one" in advice.reason


def test_nine_factors_each_with_stars_and_a_reason() -> None:
    for assessment in advise(INPUTS).assessments:
        assert len(assessment.ratings) == 9
        assert all(1 <= rating.stars <= 5 and rating.reason for rating in assessment.ratings)
        assert 1 <= assessment.weighted_rating <= 5


def test_weights_move_the_recommendation() -> None:
    zero = {field.name: 0.0 for field in fields(INPUTS.weights)}
    only = {
        name: advise(
            replace(INPUTS, weights=replace(INPUTS.weights, **(zero | {name: 1.0})))
        ).recommended
        for name in ("lock_in", "newest_models")
    }
    assert only == {"lock_in": Deployment.LOCAL, "newest_models": Deployment.CLOUD}


def test_sensitivity_covers_every_price() -> None:
    names = [swing.name for swing in advise(INPUTS).swings]
    assert set(names) >= {field.name for field in fields(PriceList)}
    assert "requests_per_month" in names


def test_the_page_has_every_part_and_every_source() -> None:
    page = to_markdown(advise(INPUTS))
    for part in ("## Cost", "## Nine factors", "## What would change this", "## Risks"):
        assert part in page
    for field in fields(PriceList):
        price = getattr(INPUTS.prices, field.name)
        assert price.source in page
        assert price.dated in page
    assert "requests a month" in page


def test_json_is_plain_and_whole() -> None:
    document = json.loads(json.dumps(to_json(advise(INPUTS))))
    assert document["recommended"] in ("local", "cloud", "hybrid")
    assert document["assessments"][0]["first_month"]["total"] > 0
    assert document["inputs"]["prices"]["device_usd"]["dated"] == "2026-11"


def test_a_file_need_hold_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text("[volume]\nrequests_per_month = 5\n[prices.device_usd]\nvalue = 1.0\n")
    ours = load_inputs(path)
    assert ours.volume.requests_per_month == 5
    assert ours.volume.growth_per_month == INPUTS.volume.growth_per_month
    assert ours.prices.device_usd == replace(INPUTS.prices.device_usd, value=1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[volume]\nrequests_per_month = -5\n", "volume.requests_per_month"),
        ("[volume]\nrequest_per_month = 5\n", "volume.request_per_month"),
        ("[prices.device_usd]\ndated = 'hunter2'\n", "prices.device_usd.dated"),
        ("[requirements]\nprivacy_class = 'hunter2'\n", "requirements.privacy_class"),
        ("volume = 'hunter2'\n", "volume"),
        ("[volume\n", "no valid TOML"),
    ],
)
def test_wrong_inputs_name_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=words) as caught:
        load_inputs(path)
    assert "ours.toml" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_shipped_inputs_are_what_is_shown() -> None:
    shown = CliRunner().invoke(advise_command, ["--show-inputs"])
    assert shown.exit_code == 0
    assert "[prices.device_usd]" in shown.output


def test_the_command_prints_a_page_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise"]) == 0
    assert capsys.readouterr().out.startswith("# Where should it run?")
    page = tmp_path / "page.md"
    assert main(["advise", "--json", "--output", str(page)]) == 0
    assert "recommended" in json.loads(capsys.readouterr().out)
    assert page.read_text().startswith("# Where should it run?")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[volume]\nhorizon_months = 0\n")
    assert main(["advise", "--inputs", str(wrong)]) == 1
    assert "volume.horizon_months" in capsys.readouterr().err


def test_inputs_are_values() -> None:
    assert isinstance(INPUTS, AdviceInputs)
    assert load_inputs() == INPUTS


def test_sensitivity_covers_staff_growth_and_weights() -> None:
    names = {swing.name for swing in advise(INPUTS).swings}
    assert {
        "growth_per_month",
        "num_devices",
        "hybrid full_time_staff",
        "local set_up_days",
    } <= names
    assert {f"weight of {field.name}" for field in fields(type(INPUTS.weights))} <= names


def test_a_profile_replaces_assumed_seconds(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    save_profile(DeviceProfile(edge=EDGE, cloud=CLOUD, link=LINK), path)
    told = with_profile(INPUTS, load_profile(path))
    local_s = EDGE.prefill(400) + 119 * EDGE.decode(460)
    assert told.local.latency_s == told.fleet.busy_s_per_request == pytest.approx(local_s)
    assert (told.local.model, told.cloud.model) == ("small", "large")
    assert told.cloud.latency_s > 119 * CLOUD.decode(460)
    alone = with_profile(INPUTS, DeviceProfile(edge=EDGE))
    assert alone.cloud == INPUTS.cloud


def test_a_certificate_replaces_the_assumed_share(tmp_path: Path) -> None:
    certificate = Certificate(
        status=Status.CERTIFIED,
        threshold=0.5,
        local_share=0.93,
        observed_error=0.01,
        error_upper_bound=0.02,
        max_error=0.03,
        confidence=0.95,
        n=800,
        fingerprint="f",
        frontier=(),
    )
    told = with_certificate(INPUTS, certificate)
    assert told.hybrid.local_share == 0.93
    assert told.hybrid.quality == pytest.approx(0.93 * 0.97 + 0.07 * INPUTS.cloud.quality)
    with pytest.raises(ProfileError, match="certifies nothing"):
        with_certificate(INPUTS, replace(certificate, status=Status.NOT_CERTIFIED))


def test_the_command_takes_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    save_profile(DeviceProfile(edge=EDGE, cloud=CLOUD, link=LINK), path)
    result = CliRunner().invoke(advise_command, ["--profile", str(path)])
    assert result.exit_code == 0
    assert "| local | small |" in result.output
