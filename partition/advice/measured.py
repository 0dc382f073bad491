"""Puts what was measured in place of assumptions: a device profile, a certificate."""

from __future__ import annotations

from dataclasses import replace

from partition.advice.advice_inputs import AdviceInputs
from partition.calibration.certificate import Certificate, Status
from partition.errors import ProfileError
from partition.planning.cost import Mode, Routing, Scenario, Workload, predict_all
from partition.planning.profile import DeviceProfile


def with_certificate(inputs: AdviceInputs, certificate: Certificate) -> AdviceInputs:
    """Take the local share, and how often a local answer may be wrong, from a certificate.

    Right answers of the hybrid are then those of the cloud where it is asked, and what is certified elsewhere.

    Raises:
        ProfileError: It certifies nothing.
    """
    if certificate.status is not Status.CERTIFIED:
        raise ProfileError(
            "the certificate certifies nothing, so there is no share to reckon with; label more, or allow more errors"
        )
    share = certificate.local_share
    right = share * (1 - certificate.max_error) + (1 - share) * inputs.cloud.quality
    return replace(inputs, hybrid=replace(inputs.hybrid, local_share=share, quality=right))


def with_profile(inputs: AdviceInputs, profile: DeviceProfile) -> AdviceInputs:
    """Take the seconds of an answer, and the names of the models, from a device profile.

    The cloud's seconds change only where the profile has a cloud and a link.
    """
    volume, hybrid = inputs.volume, inputs.hybrid
    scenario = Scenario(
        edge=profile.edge,
        cloud=profile.cloud,
        link=profile.link,
        workload=Workload(
            prompt_tokens=max(1, round(volume.prompt_tokens)),
            output_tokens=max(1, round(volume.output_tokens)),
        ),
        routing=Routing(local_share=hybrid.local_share),
    )
    seconds = {found.mode: found.total_s for found in predict_all(scenario)}
    inputs = replace(
        inputs,
        fleet=replace(inputs.fleet, busy_s_per_request=seconds[Mode.LOCAL]),
        local=replace(inputs.local, model=profile.edge.model, latency_s=seconds[Mode.LOCAL]),
    )
    if profile.cloud is None or Mode.CLOUD not in seconds:
        return inputs
    return replace(
        inputs,
        cloud=replace(inputs.cloud, model=profile.cloud.model, latency_s=seconds[Mode.CLOUD]),
        hybrid=replace(hybrid, latency_s=seconds[Mode.CASCADE]),
    )
