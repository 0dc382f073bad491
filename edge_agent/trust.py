"""Which local answers may stand: certificates and scorers, checked against what really runs here.

A certificate is believed only under the fingerprint it was made for: a change of weights, quantisation, runtime, prompt,
anonymizer or scorer voids it, and the reason says so. With an oversight, local answers are audited by lot, and an alarm
suspends the certificate: its task goes to the cloud until the operator takes it up again or calibrates anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import ConfigError
from edge_agent.flow import Confidence
from edge_agent.router import Threshold
from partition.calibration.certificate import Certificate
from partition.calibration.prompt_gate import PromptGate
from partition.calibration.scorer import Scorer
from partition.errors import CalibrationError, OversightError, PartitionError
from partition.fingerprint import UNSCORED, Loss, Setup, fingerprint
from partition.oversight.adaptive import LABEL, AdaptiveThreshold
from partition.task import Task

if TYPE_CHECKING:
    from partition.oversight.oversight import Oversight

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the router needs to know about one task's certificate."""

    threshold: Threshold | None = None
    why_no_certificate: str = ""


class Trust:
    """Certificates and scorers of all tasks of one device. Thread-safe; what changes is the oversight's."""

    def __init__(
        self,
        *,
        setups: Mapping[str, Setup],
        certificates: Mapping[str, Certificate] | None = None,
        scorers: Mapping[str, Scorer] | None = None,
        oversight: Oversight | None = None,
        adaptive: Mapping[str, AdaptiveThreshold] | None = None,
        gates: Mapping[str, PromptGate] | None = None,
    ) -> None:
        """Judge every task once.

        Args:
            setups: What shapes a local answer here, by task name.
            certificates: By task name.
            scorers: By task name.
            oversight: Audits and alarms; None: certificates stand unwatched.
            adaptive: Where the thresholds of the tasks start that follow audits instead of a certificate; needs an oversight.
            gates: Before the local model, by task name.
        """
        self._adaptive = dict(adaptive or {})
        self._gates = dict(gates or {})
        self._oversight = oversight
        self._setups = dict(setups)
        self._scorers = dict(scorers or {})
        self._verdicts = {
            name: self._judge(name, (certificates or {}).get(name)) for name in setups
        }
        for name in self.certified_tasks:
            self._watch(name, (certificates or {})[name])
        for name in setups:
            self._follow(name)

    @classmethod
    def load(
        cls,
        setups: Mapping[str, Setup],
        certificates: Path | None,
        scorers: Path | None,
        oversight: Oversight | None = None,
        *,
        adaptive: Mapping[str, AdaptiveThreshold] | None = None,
        gates: Path | None = None,
    ) -> Trust:
        """Read ``<task>.json`` of each folder for the tasks that have one.

        Raises:
            ConfigError: A folder does not exist, or a file in it is no certificate or scorer.
        """
        found_certificates: dict[str, Certificate] = {}
        found_scorers: dict[str, Scorer] = {}
        found_gates: dict[str, PromptGate] = {}
        try:
            for name in setups:
                if (path := _file(certificates, name)) is not None:
                    found_certificates[name] = Certificate.load(path, task=name)
                if (path := _file(scorers, name)) is not None:
                    found_scorers[name] = Scorer.load(path)
                if (path := _file(gates, name)) is not None:
                    found_gates[name] = PromptGate.load(path)
        except (CalibrationError, PartitionError) as error:
            raise ConfigError(str(error)) from error
        return cls(
            setups=setups,
            certificates=found_certificates,
            scorers=found_scorers,
            oversight=oversight,
            adaptive=adaptive,
            gates=found_gates,
        )

    @property
    def oversight(self) -> Oversight | None:
        """Who remembers audits and alarms; None: certificates stand unwatched."""
        return self._oversight

    @property
    def certified_tasks(self) -> tuple[str, ...]:
        """Names of the tasks whose certificate holds here."""
        return tuple(
            sorted(
                name
                for name, verdict in self._verdicts.items()
                if verdict.threshold is not None and name not in self._adaptive
            )
        )

    def scorer(self, task: Task) -> Scorer | None:
        """The task's scorer; None: the built-in score."""
        return self._scorers.get(task.name)

    def gate(self, task: Task) -> PromptGate | None:
        """What decides before the local model of a certified task whether to ask it; None: it is asked."""
        return self._gates.get(task.name) if task.name in self.certified_tasks else None

    def verdict(self, task: Task) -> Verdict:
        """Whether the task's certificate holds here and now, or why not; of an adaptive task, where its threshold is."""
        if task.name in self._adaptive:
            return self._adaptive_verdict(task.name)
        verdict = self._verdicts[task.name]
        if self._oversight is None or verdict.threshold is None:
            return verdict
        try:
            standing = self._oversight.standing(task.name)
        except OversightError as error:
            # Without a memory of audits nobody knows whether an alarm was raised.
            return _suspended(verdict.threshold, f"the certificate cannot be watched: {error}")
        if standing is None or standing.threshold is None:
            why = (
                standing.why_suspended if standing is not None else "the certificate is not watched"
            )
            return _suspended(verdict.threshold, why)
        return Verdict(threshold=replace(verdict.threshold, least_score=standing.threshold))

    def saw(
        self,
        task: Task,
        request_id: str,
        confidence: Confidence,
        *,
        stood: bool,
        judged: str | None,
    ) -> bool:
        """Learn from one request of a watched task: its score, and by lot an audit of its local answer.

        Args:
            task: Of the request.
            request_id: Its own.
            confidence: Of the local answer.
            stood: The local answer stood by itself (route LOCAL).
            judged: It, surrogates not restored, if somebody can judge it; None otherwise.

        Returns:
            Whether the answer is to be audited: have it judged, and tell the oversight. Never for a task that is not watched.
        """
        oversight, is_adaptive = self._oversight, task.name in self._adaptive
        if oversight is None or not (
            is_adaptive or self._verdicts[task.name].threshold is not None
        ):
            return False
        try:
            oversight.saw_score(task.name, confidence.score)
            is_audited = (
                stood
                and judged is not None
                and oversight.begin_audit(task.name, request_id, judged)
            )
            if is_adaptive:
                oversight.adapt(task.name, stood=stood, is_audited=is_audited)
            if is_audited:
                oversight.expire_audits()
        except OversightError as error:
            logger.warning("request %s could not be noted for audits: %s", request_id, error)
            return False
        return is_audited

    def audit_name(self, request_id: str) -> str:
        """What stands for an audited request in files."""
        assert self._oversight is not None  # or there would be no audits
        return self._oversight.name_of(request_id)

    def setup_sha256(self, task: Task) -> str:
        """Digest of what shapes a local answer of this task; stands in each calibration record."""
        return self._setups[task.name].sha256

    def _watch(self, name: str, certificate: Certificate) -> None:
        if self._oversight is None:
            return
        try:
            self._oversight.watch(name, certificate)
        except OversightError as error:
            logger.warning("the certificate of task %s cannot be watched: %s", name, error)

    def _follow(self, name: str) -> None:
        if self._oversight is None:
            return
        try:
            if name in self._adaptive:
                scorer = self._scorers.get(name)
                self._oversight.follow(
                    name,
                    "adaptive "
                    + fingerprint(
                        setup_sha256=self._setups[name].sha256,
                        scorer_sha256=scorer.sha256 if scorer is not None else UNSCORED,
                        task=name,
                        loss=Loss.DISAGREEMENT,
                    ),
                    self._adaptive[name],
                )
            else:
                self._oversight.unfollow(name)
        except OversightError as error:
            logger.warning("the adaptive threshold of task %s cannot be kept: %s", name, error)

    def _adaptive_verdict(self, name: str) -> Verdict:
        start = self._adaptive[name]
        threshold = Threshold(least_probability=start.threshold, adaptive=LABEL)
        if self._oversight is None:
            return Verdict(threshold=_why(threshold, "an adaptive threshold needs audits"))
        try:
            state = self._oversight.adaptive(name)
        except OversightError as error:
            return Verdict(threshold=_why(threshold, f"the threshold cannot be read: {error}"))
        if state is None:
            return Verdict(threshold=_why(threshold, "the adaptive threshold is not kept"))
        return Verdict(threshold=replace(threshold, least_probability=state.threshold))

    def _judge(self, name: str, certificate: Certificate | None) -> Verdict:
        if certificate is None:
            return Verdict(why_no_certificate="no certificate for this task")
        if certificate.threshold is None:
            return Verdict(why_no_certificate='the certificate says "not certified"')
        scorer, gate = self._scorers.get(name), self._gates.get(name)
        running = fingerprint(
            setup_sha256=self._setups[name].sha256,
            scorer_sha256=scorer.sha256 if scorer is not None else UNSCORED,
            task=name,
            loss=certificate.loss,
            gate_sha256=gate.sha256 if gate is not None else "",
        )
        if not certificate.covers(running):
            return Verdict(
                why_no_certificate="the certificate was made for another model, prompt, anonymizer, head, scorer or gate"
            )
        promise = (
            f"error at most {certificate.max_error:g} at {certificate.confidence:g} confidence"
        )
        return Verdict(threshold=Threshold(certificate=promise, least_score=certificate.threshold))


def stopped_by_gate(verdict: Verdict) -> Verdict:
    """The verdict on a request that the gate did not pass: its local answer may not stand, however sure."""
    assert verdict.threshold is not None  # a gate belongs to a certificate
    if verdict.threshold.why_suspended:
        return verdict
    return _suspended(verdict.threshold, "the gate before the local model expects no sure answer")


def _suspended(threshold: Threshold, why: str) -> Verdict:
    return Verdict(threshold=_why(threshold, why))


def _why(threshold: Threshold, why: str) -> Threshold:
    return replace(threshold, why_suspended=why)


def _file(folder: Path | None, name: str) -> Path | None:
    if folder is None:
        return None
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no such folder; correct `certificates`, `scorers` or `gates` in the configuration"
        )
    path = folder / f"{name}.json"
    return path if path.exists() else None
