"""Which local answers may stand: certificates and scorers, checked against what really runs here.

A certificate is believed only under the fingerprint it was made for: a change of weights, quantisation, runtime, prompt,
anonymizer or scorer voids it, and the reason says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import ConfigError
from edge_agent.router import Threshold
from partition.certificate import Certificate
from partition.errors import CalibrationError, PartitionError
from partition.fingerprint import UNSCORED, Setup, fingerprint
from partition.scorer import Scorer
from partition.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the router needs to know about one task's certificate."""

    threshold: Threshold | None = None
    why_no_certificate: str = ""


class Trust:
    """Certificates and scorers of all tasks of one device. Immutable after construction, so any thread may ask."""

    def __init__(
        self,
        *,
        setups: Mapping[str, Setup],
        certificates: Mapping[str, Certificate] | None = None,
        scorers: Mapping[str, Scorer] | None = None,
    ) -> None:
        """Judge every task once.

        Args:
            setups: What shapes a local answer here, by task name.
            certificates: By task name.
            scorers: By task name.
        """
        self._setups = dict(setups)
        self._scorers = dict(scorers or {})
        self._verdicts = {
            name: self._judge(name, (certificates or {}).get(name)) for name in setups
        }

    @classmethod
    def load(
        cls, setups: Mapping[str, Setup], certificates: Path | None, scorers: Path | None
    ) -> Trust:
        """Read ``<task>.json`` of each folder for the tasks that have one.

        Raises:
            ConfigError: A folder does not exist, or a file in it is no certificate or scorer.
        """
        found_certificates: dict[str, Certificate] = {}
        found_scorers: dict[str, Scorer] = {}
        try:
            for name in setups:
                if (path := _file(certificates, name)) is not None:
                    found_certificates[name] = Certificate.load(path, task=name)
                if (path := _file(scorers, name)) is not None:
                    found_scorers[name] = Scorer.load(path)
        except (CalibrationError, PartitionError) as error:
            raise ConfigError(str(error)) from error
        return cls(setups=setups, certificates=found_certificates, scorers=found_scorers)

    @property
    def certified_tasks(self) -> tuple[str, ...]:
        """Names of the tasks whose certificate holds here."""
        return tuple(
            sorted(
                name for name, verdict in self._verdicts.items() if verdict.threshold is not None
            )
        )

    def scorer(self, task: Task) -> Scorer | None:
        """The task's scorer; None: the built-in score."""
        return self._scorers.get(task.name)

    def verdict(self, task: Task) -> Verdict:
        """Whether the task's certificate holds here, or why not."""
        return self._verdicts[task.name]

    def setup_sha256(self, task: Task) -> str:
        """Digest of what shapes a local answer of this task; stands in each calibration record."""
        return self._setups[task.name].sha256

    def _judge(self, name: str, certificate: Certificate | None) -> Verdict:
        if certificate is None:
            return Verdict(why_no_certificate="no certificate for this task")
        if certificate.threshold is None:
            return Verdict(why_no_certificate='the certificate says "not certified"')
        scorer = self._scorers.get(name)
        running = fingerprint(
            setup_sha256=self._setups[name].sha256,
            scorer_sha256=scorer.sha256 if scorer is not None else UNSCORED,
            task=name,
            loss=certificate.loss,
        )
        if not certificate.covers(running):
            return Verdict(
                why_no_certificate="the certificate was made for another model, prompt, anonymizer or scorer"
            )
        promise = (
            f"error at most {certificate.max_error:g} at {certificate.confidence:g} confidence"
        )
        return Verdict(threshold=Threshold(certificate=promise, least_score=certificate.threshold))


def _file(folder: Path | None, name: str) -> Path | None:
    if folder is None:
        return None
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no such folder; correct `certificates` or `scorers` in the configuration"
        )
    path = folder / f"{name}.json"
    return path if path.exists() else None
