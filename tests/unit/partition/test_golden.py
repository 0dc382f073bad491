import pytest

from partition.errors import ManifestError
from partition.release.golden import Golden, GoldenAnswer, GoldenPrompt, compare, parse_golden
from partition.release.manifest import GateLimits

LIMITS = GateLimits(max_abs_logprob=0.1, label_match=1.0, p95_ratio=1.2)


def answer(number, normal, ms=10.0):
    scores = {"normal": normal, "abnormal": -1.0}
    return GoldenAnswer(id=str(number), text=max(scores, key=scores.get), scores=scores, ms=ms)


GOLDEN = Golden(
    prompts=tuple(GoldenPrompt(id=str(n), task="cxr", text=f"made up {n}") for n in range(4)),
    answers=(answer(0, -0.1), answer(1, -3.0), answer(2, -0.95), answer(3, -2.0)),
)


def judged(*answers, baseline=0.0):
    return compare(GOLDEN, answers, LIMITS, baseline_p95_ms=baseline)


def test_round_trip():
    read = parse_golden(GOLDEN.to_bytes())
    assert read.prompts == GOLDEN.prompts
    assert [item.scores for item in read.answers] == [item.scores for item in GOLDEN.answers]
    for data in (b"", b"{}", b'{"schema": 2, "prompts": []}', b'{"schema": 1, "prompts": []}'):
        with pytest.raises(ManifestError):
            parse_golden(data)


def test_small_differences_pass_also_where_they_turn_an_unsure_label():
    result = judged(answer(0, -0.15), answer(1, -2.95), answer(2, -1.04), answer(3, -2.09))
    assert result.problems == ()
    assert result.max_abs_logprob == pytest.approx(0.09)
    assert result.label_match == 1.0


def test_large_difference_and_turned_label_fail():
    result = judged(answer(0, -1.5), *GOLDEN.answers[1:])
    assert len(result.problems) == 2
    assert result.label_match == pytest.approx(2 / 3)


def test_missing_answer_or_label_fails():
    assert judged(*GOLDEN.answers[:3]).problems
    odd = GoldenAnswer(id="0", text="x", scores={"x": -0.1}, ms=1.0)
    assert judged(odd, *GOLDEN.answers[1:]).problems
    bad = GoldenAnswer(
        id="0", text="normal", scores={"normal": float("nan"), "abnormal": -1.0}, ms=1
    )
    assert judged(bad, *GOLDEN.answers[1:]).problems


def test_slower_than_what_runs_fails():
    slow = [answer(n, item.scores["normal"], ms=13.0) for n, item in enumerate(GOLDEN.answers)]
    assert judged(*slow, baseline=11.0).problems == ()
    assert judged(*slow, baseline=10.0).problems
    assert judged(*slow).problems == ()  # nothing to compare with
