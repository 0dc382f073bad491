"""Replay of published answers: RouteLLM's Mixtral-8x7B and GPT-4 on MMLU and GSM8K (arXiv 2406.18665, Apache-2.0).

Needs ``DATA/routellm`` with ``gsm8k_responses.csv`` and ``mmlu_*.csv``, from the folders ``routellm/evals/gsm8k`` and
``routellm/evals/mmlu/responses`` of its repository; without them nothing is replayed.

The published routers see the question alone and learnt from other questions; ours are judged in cross-validation on the same
questions, so their figures are context and not a peer's. "question" is a linear model on its words. "answer" adds what the small
model's answer shows, as a device sees it: length, steps, and whether the sums it states are right.
"""

from __future__ import annotations

import ast
import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from benchmarks._bootstrap import bootstrap_interval
from benchmarks.line import Line
from partition.calibration.quality import apgr, auroc, cloud_share_for, quality_by_cloud_share

FOLDER = "routellm"
_EDGE, _CLOUD = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
_STRENGTH = 1.0
_PUBLISHED = {  # best variant of each set: APGR, CPT50, CPT80
    "mmlu": (0.603, 0.354, 0.703),
    "gsm8k": (0.622, 0.3364, 0.6326),
}
_SUM = re.compile(r"([\d.,()+*/x× -]{3,}?)=\s*\$?(-?[\d,]+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    question: str
    answer: str  # of the small model; empty where it was not published
    edge_right: bool
    cloud_right: bool


def replay_lines(data: Path, *, runs: int) -> Iterator[Line]:
    """APGR and CPT of each set that is there, beside the published figures."""
    sets = {
        "mmlu": [row for path in sorted((data / FOLDER).glob("mmlu_*.csv")) for row in _read(path)],
        "gsm8k": _read(data / FOLDER / "gsm8k_responses.csv"),
    }
    for name, rows in sets.items():
        if rows:
            yield from _set_lines(name, rows, runs)


def _set_lines(name: str, rows: Sequence[_Row], runs: int) -> Iterator[Line]:
    edge = np.array([row.edge_right for row in rows], dtype=np.float64)
    cloud = np.array([row.cloud_right for row in rows], dtype=np.float64)
    case = f"published-{name} n-{len(rows)}"
    for label, right in (("edge-only Mixtral-8x7B", edge), ("cloud-only GPT-4", cloud)):
        yield Line(
            case=f"quality {label} {case}", ours=float(right.mean()), unit="share right", runs=1
        )
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True).fit_transform(
        [row.question for row in rows]
    )
    scores = {"question": _scored(words, edge)}
    if all(row.answer for row in rows):
        shown = StandardScaler().fit_transform([_features(row) for row in rows])
        scores["question-and-answer"] = _scored(hstack([words, csr_matrix(shown)]).tocsr(), edge)
    published, *cpt = _PUBLISHED[name]
    for label, score in scores.items():
        yield Line(
            case=f"auroc {label} {case}",
            ours=auroc(score, edge.astype(np.bool_)),
            unit="AUROC",
            runs=1,
        )
        yield Line(
            case=f"apgr {label} {case}",
            ours=apgr(*quality_by_cloud_share(score, edge, cloud)),
            theirs=published,
            peer="RouteLLM, as published",
            unit="APGR",
            runs=1,
        )
        low, high = bootstrap_interval(
            np.arange(len(rows)),
            lambda chosen, score=score: apgr(
                *quality_by_cloud_share(score[chosen], edge[chosen], cloud[chosen])
            ),
            runs,
        )
        yield Line(case=f"apgr-low {label} {case}", ours=low, unit="APGR", runs=runs)
        yield Line(case=f"apgr-high {label} {case}", ours=high, unit="APGR", runs=runs)
        for share, theirs in zip((0.5, 0.8), cpt, strict=True):
            yield Line(
                case=f"cpt-{100 * share:.0f} {label} {case}",
                ours=cloud_share_for(*quality_by_cloud_share(score, edge, cloud), share),
                theirs=theirs,
                peer="RouteLLM, as published",
                unit="share sent to the cloud",
                runs=1,
                less_is_better=True,
            )


def _read(path: Path) -> list[_Row]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            _Row(
                question=row["prompt"],
                answer=row.get(f"{_EDGE}_response") or "",
                edge_right=row[_EDGE] == "True",
                cloud_right=row[_CLOUD] == "True",
            )
            for row in csv.DictReader(file)
        ]


def _scored(features: csr_matrix, right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of the small model being right, each from a model that has not seen the question."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(C=_STRENGTH, max_iter=1000)
    scores = cross_val_predict(model, features, right, cv=folds, method="decision_function")
    return np.asarray(scores, dtype=np.float64)


def _features(row: _Row) -> list[float]:
    """What an answer shows by itself."""
    sums = [_is_true(left, right) for left, right in _SUM.findall(row.answer)]
    known = [found for found in sums if found is not None]
    return [
        math.log1p(len(row.question)),
        math.log1p(len(row.answer)),
        math.log1p(row.answer.count("\n")),
        float(len(known)),
        float(known.count(False)),
        float(bool(known) and not all(known)),
        float(len(re.findall(r"\d", row.question))),
        float("####" in row.answer),
        float(
            len(set(re.findall(r"[\d.]+", row.question)) - set(re.findall(r"[\d.]+", row.answer)))
        ),
    ]


def _is_true(left: str, right: str) -> bool | None:
    """Whether a stated sum is right; None where it cannot be read."""
    try:
        tree = ast.parse(re.sub(r"[x×]", "*", left).replace(",", "").strip(), mode="eval")
        return abs(_value(tree.body) - float(right.replace(",", ""))) < 0.01
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _value(node: ast.AST) -> float:
    """The value of an expression of numbers and the four operations.

    Raises:
        ValueError: There is anything else in it.
    """
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left) - _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left) * _value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left) / _value(right)
        case _:
            raise ValueError("no sum")
