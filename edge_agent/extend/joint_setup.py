"""Makes the joint routes of an agent from its configuration: VERIFY, SPLIT, and the plans that choose between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.battery import read_charge
from edge_agent.errors import ConfigError
from partition.extend.draft_length import RoundCosts
from partition.planning.cost import Mode

if TYPE_CHECKING:
    from edge_agent.cloud.session_cloud import SessionCloud
    from edge_agent.config import EdgeConfig
    from edge_agent.extend.joint_route import JointRoute
    from edge_agent.extend.task_plans import TaskPlans

# Costs of a round until it has been measured: a two-core device and a cloud of the same kind, 50 ms away.
UNMEASURED = RoundCosts(draft_s=0.04, verify_base_s=0.2, verify_per_draft_s=0.01, round_trip_s=0.05)


def make_plans(
    config: EdgeConfig, *, clock: Callable[[], float] = time.monotonic
) -> TaskPlans | None:
    """Make the live plans; None where nothing is to be chosen, or no profile says what things take.

    Raises:
        ProfileError: The profile is missing or wrong.
        ConfigError: It says nothing of cloud or link.
    """
    wants_split = bool(config.split.model)
    if config.cloud.profile is None or not (config.cloud.verify or wants_split):
        return None
    from edge_agent.extend.task_plans import TaskPlans, scenario_of
    from partition.planning.profile import load_profile

    profile = load_profile(config.cloud.profile)
    modes = {Mode.VERIFY: config.cloud.verify, Mode.SPLIT: wants_split}
    return TaskPlans(
        scenario_of(profile, codec=config.split.as_codec),
        set_up=frozenset(mode for mode, is_wanted in modes.items() if is_wanted),
        layers=_num_layers(config) if wants_split else None,
        clock=clock,
        read_charge=read_charge,
    )


def follow_profile(plans: TaskPlans, config: EdgeConfig) -> None:
    """Have plans that are in use go by the configuration's profile from now on, as a release brought it.

    Raises:
        ProfileError: The profile is missing or wrong.
        ConfigError: It says nothing of cloud or link.
    """
    if config.cloud.profile is None:
        return
    from edge_agent.extend.task_plans import scenario_of
    from partition.planning.profile import load_profile

    plans.follow(scenario_of(load_profile(config.cloud.profile), codec=config.split.as_codec))


def make_joint_route(
    config: EdgeConfig,
    cloud: SessionCloud,
    plans: TaskPlans | None,
    *,
    find_model: Callable[[str], Path],
    clock: Callable[[], float] = time.monotonic,
) -> JointRoute | None:
    """Make the joint routes; None unless one is wanted. Loads the layers of a SPLIT.

    Args:
        config: Of the agent.
        cloud: Where the large model is.
        plans: Which choose; None: there is no profile.
        find_model: Finds a model by its name in the store, or as a file.
        clock: Monotonic seconds.

    Raises:
        ConfigError: The cut does not fit, or is neither given nor to be found out.
        PartitionError: The layers cannot be had.
    """
    if not config.cloud.verify and not config.split.model:
        return None
    from edge_agent.extend.first_layers import FirstLayers
    from edge_agent.extend.joint_route import JointRoute
    from edge_agent.extend.split_answer import SplitAnswers
    from edge_agent.extend.task_plans import scenario_of
    from edge_agent.extend.verified_answer import VerifiedAnswers
    from partition.planning.cost import cloud as cloud_alone
    from partition.planning.cost import round_costs
    from partition.planning.profile import load_profile

    verify = split = None
    if config.cloud.verify:
        costs, streaming_s = UNMEASURED, float("inf")
        if config.cloud.profile is not None:
            scenario = scenario_of(load_profile(config.cloud.profile))
            costs, streaming_s = round_costs(scenario), cloud_alone(scenario).tpot_s
        verify = VerifiedAnswers(
            cloud,
            costs=costs,
            streaming_s=streaming_s,
            on_exchange=(lambda exchanged: None) if plans is None else plans.verified,
            clock=clock,
        )
    if config.split.model:
        layers = FirstLayers.open(
            find_model(config.split.model),
            count=_num_layers(config),
            precision=config.split.precision,
            threads=config.model.threads,
            context_tokens=config.model.context_tokens,
            cache_dir=config.cache_folder,
            max_memory_mb=config.model.max_memory_mb,
        )
        split = SplitAnswers(
            cloud,
            layers,
            codec=config.split.as_codec,
            chunk_tokens=config.split.chunk_tokens,
            on_exchange=(lambda exchanged: None) if plans is None else plans.exchanged,
            clock=clock,
        )
    return JointRoute(verify=verify, split=split, plans=plans, clock=clock)


def _num_layers(config: EdgeConfig) -> int:
    if config.split.layers is not None:
        return config.split.layers
    if config.cloud.profile is None:
        raise ConfigError(
            "split.layers is needed where cloud.profile is not given; 1 keeps the most in the cloud"
        )
    from edge_agent.extend.task_plans import best_cut
    from partition.planning.profile import load_profile

    return best_cut(load_profile(config.cloud.profile), codec=config.split.as_codec)
