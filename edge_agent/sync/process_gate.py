"""The gate of a real device: golden prompts in a child process, under the device's own limits."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.sync.gate import GateVerdict
from edge_agent.sync.release_layout import GOLDEN, model_of
from partition.errors import ManifestError
from partition.release.golden import GoldenAnswer, compare, parse_golden
from partition.release.manifest import Manifest

logger = logging.getLogger(__name__)

TIMEOUT_S = 900.0  # the first run also builds the graph
D = TypeVar("D", bound=BaseModel)


class ProcessGate:
    """Fills :class:`edge_agent.sync.gate.Gate`."""

    def __init__(
        self,
        *,
        factory_model: Path,
        threads: int,
        context_tokens: int,
        max_memory_mb: int,
        cache: Path,
        store: Path | None = None,
        languages: tuple[str, ...] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Take the device's settings.

        Args:
            factory_model: What answers where a release brings only tasks, certificates or plans.
            threads: That the model may use.
            context_tokens: Of the model.
            max_memory_mb: That it may need.
            cache: Of built graphs.
            store: Of models and language pipelines; None: no canaries are shown.
            languages: Of the anonymizer.
            timeout_s: After which the release counts as hanging.
        """
        self._factory_model = factory_model
        self._settings = (str(threads), str(context_tokens), str(max_memory_mb), str(cache))
        self._max_bytes = max_memory_mb << 20
        self._store = store
        self._languages = languages
        self._timeout_s = timeout_s

    def check(self, folder: Path, manifest: Manifest, baseline_p95_ms: float) -> GateVerdict:
        """Run the release's golden prompts; see the protocol."""
        path = folder / GOLDEN
        if not path.exists():
            return GateVerdict(passed=True, reason="the release has no golden prompts")
        try:
            golden = parse_golden(path.read_bytes())
        except ManifestError as error:
            return GateVerdict(passed=False, reason=str(error))
        model = model_of(folder) or self._factory_model
        words = ("edge_agent.sync.golden_run", str(folder), str(path), str(model))
        found = self._run(_Found, *words, *self._settings)
        if isinstance(found, str):
            return GateVerdict(passed=False, reason=found)
        answers = [
            GoldenAnswer(id=item.id, text=item.text, scores=item.scores, ms=item.ms)
            for item in found.answers
        ]
        result = compare(golden, answers, manifest.gate, baseline_p95_ms=baseline_p95_ms)
        problems = list(result.problems)
        if found.peak_bytes > self._max_bytes:
            problems.append(f"it needed {found.peak_bytes >> 20} MB of memory")
        return GateVerdict(
            passed=not problems,
            reason="; ".join(problems),
            max_abs_logprob=result.max_abs_logprob,
            label_match=result.label_match,
            p50_ms=result.p50_ms,
            p95_ms=result.p95_ms,
        )

    def check_canaries(self, folder: Path) -> GateVerdict:
        """Show canaries to the anonymizer; see the protocol."""
        if self._store is None or not self._languages:
            return GateVerdict(passed=True, reason="nothing can leave this device")
        words = ("edge_agent.sync.canary_run", str(folder), str(self._store))
        found = self._run(_Canaries, *words, ",".join(self._languages))
        if isinstance(found, str):
            return GateVerdict(passed=False, reason=found)
        if found.missed:
            return GateVerdict(
                passed=False,
                reason=f"a planted identifier would leave with {', '.join(found.missed)}",
                kind="anonymizer",
            )
        return GateVerdict(passed=True)

    def _run(self, kind: type[D], *words: str) -> D | str:
        try:
            done = subprocess.run(  # noqa: S603 - our own module, no shell
                [sys.executable, "-m", *words],
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
                env={**_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        except subprocess.TimeoutExpired:
            return f"it did not pass its gate within {self._timeout_s:.0f} s"
        except OSError as error:
            return f"the gate could not be started ({error.strerror})"
        if done.returncode:
            logger.debug("gate: %s", done.stderr[-2000:].decode("utf-8", "replace"))
            return f"it could not be run here (exit code {done.returncode}); see --verbose"
        try:
            return kind.model_validate_json(done.stdout)
        except ValidationError:
            return "the gate's process said nothing that could be read"


def _environment() -> Mapping[str, str]:
    """Return what a child process needs of ours: paths and the locale, no settings and no secrets."""
    names = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in names if name in os.environ}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    id: str
    text: str
    scores: dict[str, float]
    ms: Annotated[float, Field(ge=0)]


class _Found(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    answers: list[_Answer]
    peak_bytes: int


class _Canaries(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    missed: list[str]
