"""Puts an agent together from its configuration; the only place that knows every part."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.anonymize.closed import ClosedAnonymizer
from edge_agent.config import EdgeConfig
from edge_agent.errors import AnonymizationError, ConfigError
from edge_agent.parts import Parts
from edge_agent.preprocess import PREPROCESS_VERSION
from partition.errors import ModelStoreError
from partition.fingerprint import Setup
from partition.task import Task, load_tasks

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymizer import Anonymizer
    from edge_agent.cloud.client import CloudClient
    from edge_agent.cloud.cloud import WireIds
    from edge_agent.cloud.observer import CallObserver
    from edge_agent.extend.joint_route import JointRoute
    from edge_agent.extend.task_plans import TaskPlans
    from edge_agent.local_model import LocalModel
    from edge_agent.metrics import Metrics
    from partition.store.model_store import ModelStore

logger = logging.getLogger(__name__)

BUILT_IN_TASKS = Path(__file__).parent / "tasks"
KEY_FILE = "device.key"
OUTBOX_FILE = "outbox.db"


def assemble(config: EdgeConfig) -> Parts:
    """Make every part of an agent.

    Raises:
        ConfigError: A setting does not fit.
        PartitionError: A task file, model, certificate or scorer is wrong or cannot be had.
        EdgeError: The key file or the outbox cannot be opened.
    """
    tasks = _load_tasks(config)
    # From here on heavy libraries are loaded, each by the part that needs it.
    from edge_agent.cloud.cloud import WireIds
    from edge_agent.extend.joint_setup import make_plans
    from edge_agent.keystore import KeyStore
    from edge_agent.labelling import with_heads
    from edge_agent.metrics import Metrics
    from edge_agent.outbox.delivery import Delivery
    from edge_agent.outbox.outbox import Outbox, OutboxLimits
    from edge_agent.supervision import adaptive_rules, open_supervision
    from edge_agent.trust import Trust
    from partition.store.model_store import ModelStore

    metrics = Metrics()
    keys = KeyStore.open(config.state_folder / KEY_FILE)
    wire_ids = WireIds(keys.derive("wire-ids"))
    store = ModelStore(config.cache_folder, offline=config.offline)
    anonymizer = _open_anonymizer(config, store)
    model = _open_model(config, store)
    plans = make_plans(config)
    cloud = _make_cloud(config, wire_ids=wire_ids, metrics=metrics, observer=plans)
    outbox = Outbox(
        config.state_folder / OUTBOX_FILE,
        keys=keys,
        wire_ids=wire_ids,
        limits=OutboxLimits(
            max_bytes=config.outbox.max_bytes, max_age_s=config.outbox.max_age_days * 86400
        ),
        metrics=metrics,
    )
    setups, heads = with_heads(
        {name: _setup_of(task, model, anonymizer) for name, task in tasks.items()},
        tasks,
        config.heads,
    )
    watching = open_supervision(config, keys)
    oversight = watching.oversight
    return Parts(
        tasks=tasks,
        default_task=config.default_task,
        anonymizer=anonymizer,
        model=model,
        trust=Trust.load(
            setups,
            config.certificates,
            config.scorers,
            oversight,
            adaptive=adaptive_rules(config, tasks),
            gates=config.gates,
        ),
        cloud=cloud,
        delivery=Delivery(
            outbox,
            cloud,
            judge=oversight.judged_by_text if oversight is not None else None,
            purse=watching.purse,
        ),
        metrics=metrics,
        record_key=keys.derive("records"),
        joint=None if cloud is None else _make_joint(config, store, cloud, plans),
        plans=plans,
        heads=heads,
        purse=watching.purse,
        desk=watching.desk,
    )


def make_cloud_client(config: EdgeConfig) -> CloudClient | None:
    """Make the client of the configured cloud by itself; None when there is none.

    Raises:
        ConfigError: Its certificates are not set.
        EdgeError: The key file cannot be opened.
    """
    from edge_agent.cloud.cloud import WireIds
    from edge_agent.keystore import KeyStore
    from edge_agent.metrics import Metrics

    keys = KeyStore.open(config.state_folder / KEY_FILE)
    wire_ids = WireIds(keys.derive("wire-ids"))
    return _make_cloud(config, wire_ids=wire_ids, metrics=Metrics(), observer=None)


def find_model(config: EdgeConfig, name: str) -> Path:
    """Find a model by its name in the store, or as a file; fetches it when it is not in the cache.

    Raises:
        ModelStoreError: It cannot be had.
    """
    from partition.store.model_store import ModelStore

    return _model_path(ModelStore(config.cache_folder, offline=config.offline), name)


def _open_anonymizer(config: EdgeConfig, store: ModelStore) -> Anonymizer | ClosedAnonymizer:
    """Load the language pipelines; without them nothing may leave, but the device goes on answering."""
    from edge_agent.anonymize.anonymizer import Anonymizer

    try:
        return Anonymizer.open(
            store, languages=config.anonymizer.languages, timeout_s=config.anonymizer.timeout_s
        )
    except (AnonymizationError, ModelStoreError) as error:
        logger.warning("no request can leave this device: %s", error)
        return ClosedAnonymizer(str(error))


def reassemble(config: EdgeConfig, parts: Parts) -> Parts:
    """Make the parts that a release brings: model, tasks, certificates, scorers and plan; everything else stays.

    Raises:
        ConfigError: A setting, certificate or scorer does not fit.
        PartitionError: A task file or model is wrong or cannot be had.
    """
    from edge_agent.extend.joint_setup import follow_profile
    from edge_agent.labelling import with_heads
    from edge_agent.supervision import adaptive_rules
    from edge_agent.trust import Trust

    tasks = _load_tasks(config)
    model = _same_or_other_model(config, parts.model)
    try:
        setups, heads = with_heads(
            {name: _setup_of(task, model, parts.anonymizer) for name, task in tasks.items()},
            tasks,
            config.heads,
        )
        trust = Trust.load(
            setups,
            config.certificates,
            config.scorers,
            parts.trust.oversight,
            adaptive=adaptive_rules(config, tasks),
            gates=config.gates,
        )
        if parts.plans is not None:
            follow_profile(parts.plans, config)
    except Exception:
        model.close()
        raise
    return replace(parts, tasks=tasks, model=model, trust=trust, heads=heads)


def _load_tasks(config: EdgeConfig) -> dict[str, Task]:
    tasks = load_tasks(BUILT_IN_TASKS, *config.tasks)
    if config.default_task not in tasks:
        raise ConfigError(
            f"default_task names no task; this agent has {', '.join(sorted(tasks))}; correct the configuration"
        )
    return tasks


def _open_model(
    config: EdgeConfig, store: ModelStore, *, beside: LocalModel | None = None
) -> LocalModel:
    from edge_agent.local_model import LocalModel

    return LocalModel.open(
        _model_path(store, config.model.name),
        threads=config.model.threads,
        max_memory_mb=config.model.max_memory_mb,
        context_tokens=config.model.context_tokens,
        cache_dir=config.cache_folder / "stages",
        adapter=config.model.adapter,
        beside=beside,
        max_batch=config.model.max_batch,
    )


def _same_or_other_model(config: EdgeConfig, running: LocalModel) -> LocalModel:
    """Open what the configuration names; what runs already is not loaded twice."""
    from edge_agent.local_model import origin_of
    from partition.store.model_store import ModelStore

    store, model = ModelStore(config.cache_folder, offline=config.offline), config.model
    wanted = origin_of(
        _model_path(store, model.name),
        model.adapter,
        threads=model.threads,
        max_memory_mb=model.max_memory_mb,
        context_tokens=model.context_tokens,
        max_batch=model.max_batch,
    )
    if wanted == running.origin:
        return running.share()
    return _open_model(config, store, beside=running)


def _model_path(store: ModelStore, name: str) -> Path:
    """Find a model by its name in the store, or as a file."""
    path = Path(name)
    if path.suffix == ".gguf" or path.is_dir():
        return path
    return store.get(name)


def _make_joint(
    config: EdgeConfig, store: ModelStore, cloud: CloudClient, plans: TaskPlans | None
) -> JointRoute | None:
    """Make the routes on which device and cloud answer together; None unless one is wanted."""
    from edge_agent.extend.joint_setup import make_joint_route

    return make_joint_route(config, cloud, plans, find_model=lambda name: _model_path(store, name))


def _make_cloud(
    config: EdgeConfig,
    *,
    wire_ids: WireIds,
    metrics: Metrics,
    observer: CallObserver | None,
) -> CloudClient | None:
    """Make the client of the configured cloud; None when the agent works alone."""
    settings = config.cloud
    if config.offline or not settings.target:
        return None
    from edge_agent.cloud.client import CloudClient, TlsFiles

    credentials = None
    if not settings.insecure_loopback:
        if settings.ca is None or settings.certificate is None or settings.key is None:
            raise ConfigError(
                "cloud.target needs cloud.ca, cloud.certificate and cloud.key; `cloud-service init` makes all three"
            )
        credentials = TlsFiles(ca=settings.ca, certificate=settings.certificate, key=settings.key)
    return CloudClient(
        settings.target,
        wire_ids=wire_ids,
        credentials=credentials,
        insecure_loopback=settings.insecure_loopback,
        metrics=metrics,
        observer=observer,
    )


def _setup_of(task: Task, model: LocalModel, anonymizer: Anonymizer | ClosedAnonymizer) -> Setup:
    """Collect what a certificate of this task is bound to."""
    return Setup(
        model=model.fingerprint,
        prompt_sha256=task.prompt_sha256,
        labels=task.labels,
        decoding=(("temperature", "0"),),
        preprocess_version=PREPROCESS_VERSION,
        anonymizer_version=anonymizer.version,
        language="auto",
    )
