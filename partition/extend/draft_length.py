"""How many tokens to draft before asking the verifier, and when asking at all is faster than plain streaming.

With ``S_i`` the probability that the first i drafts all stand, ``t_d`` seconds a drafted token, ``A + B gamma`` seconds
to verify gamma drafts, R the round trip:

    E(gamma) = 1 + sum_(i <= gamma) S_i                                   tokens a round          (2211.17192)
    f(gamma) = (gamma t_d + A + B gamma + R + bytes / U) / E(gamma)       seconds a token
    one draft more pays  <=>  S_(gamma+1) > c / f(gamma),   c = t_d + B + bytes of an id / U

f is quasi-convex, so the first draft that does not pay is the optimum. Online, f is the ratio of sums over the last
rounds: the Dinkelbach iteration for the least ratio. The acceptance of a draft is an isotonic function of the
drafter's own probability for it, fitted from judged drafts only: those after the first refusal were never judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

MAX_DRAFT = 16  # drafts a round at most
NUM_RECENT_ROUNDS = 32  # rounds in the running seconds a token
NUM_JUDGED = 512  # judged drafts that the acceptance is fitted to
BYTES_PER_ID = 3.0  # a varint of a 150,000 word vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCosts:
    """What one round of VERIFY takes."""

    draft_s: float  # t_d, seconds a drafted token
    verify_base_s: float  # A
    verify_per_draft_s: float  # B
    round_trip_s: float  # R, with everything that a small frame costs
    up_bytes_per_s: float = float("inf")  # U

    @property
    def marginal_s(self) -> float:
        """c: seconds that one more draft adds to its round."""
        return self.draft_s + self.sending_s

    @property
    def sending_s(self) -> float:
        """Seconds that one draft still costs once it has been drafted: carrying and verifying it."""
        return self.verify_per_draft_s + BYTES_PER_ID / self.up_bytes_per_s

    def round_s(self, num_drafts: int) -> float:
        """Seconds of a round of ``num_drafts`` drafts."""
        fixed = self.verify_base_s + self.round_trip_s + BYTES_PER_ID / self.up_bytes_per_s
        return fixed + num_drafts * self.marginal_s


def geometric(acceptance: float, most: int = MAX_DRAFT) -> tuple[float, ...]:
    """S_1 .. S_most when every draft stands with the same probability: a first guess only."""
    return tuple(acceptance**length for length in range(1, most + 1))


def tokens_per_round(survival: Sequence[float], num_drafts: int) -> float:
    """E: expected tokens of a round, with the verifier's own."""
    return 1.0 + sum(survival[:num_drafts])


def seconds_per_token(costs: RoundCosts, survival: Sequence[float], num_drafts: int) -> float:
    """F of the module's formula, for a constant draft length."""
    return costs.round_s(num_drafts) / tokens_per_round(survival, num_drafts)


def best_length(costs: RoundCosts, survival: Sequence[float]) -> int:
    """The constant draft length with the least seconds a token; 0 when drafting never pays."""
    length = 0
    while length < len(survival):
        pays = survival[length] > costs.marginal_s / seconds_per_token(costs, survival, length)
        if not pays:
            break
        length += 1
    return length


def break_even_round_trip_s(
    costs: RoundCosts, survival: Sequence[float], streaming_s: float
) -> tuple[float, int]:
    """The round trip below which VERIFY is faster than streaming from the cloud, whatever its own is.

    Args:
        costs: Costs of a round; its round trip is not looked at.
        survival: S_1 .. S_n.
        streaming_s: Seconds a token of the cloud alone, t_c; streaming pays the round trip once a request.

    Returns:
        The round trip in seconds (negative or zero: never faster) and the draft length there.
    """
    without = RoundCosts(
        draft_s=costs.draft_s,
        verify_base_s=costs.verify_base_s,
        verify_per_draft_s=costs.verify_per_draft_s,
        round_trip_s=0.0,
        up_bytes_per_s=costs.up_bytes_per_s,
    )
    gains = [
        (tokens_per_round(survival, length) * streaming_s - without.round_s(length), length)
        for length in range(1, len(survival) + 1)
    ]
    return max(gains, key=lambda gain: (gain[0], -gain[1]))


class Acceptance:
    """The probability that a draft stands, as a rising function of the drafter's probability for it.

    Pool-adjacent-violators over the last judged drafts. Before there are any, a draft is believed as far as the drafter
    believes it: a few weighted points on the diagonal, which real observations outweigh soon.
    """

    _PRIOR_POINTS = 8
    _PRIOR_WEIGHT = 1.0
    _REFIT_EVERY = 16  # judged drafts

    def __init__(self) -> None:
        self._judged: deque[tuple[float, bool]] = deque(maxlen=NUM_JUDGED)
        self._since_fit = 0
        self._steps: list[tuple[float, float]] = []
        self._fit()

    @property
    def mean(self) -> float:
        """Share of judged drafts that stood; 0.7 is the guess of the first rounds."""
        stood = sum(accepted for _, accepted in self._judged)
        return (stood + 0.7 * 8) / (len(self._judged) + 8)

    def observe(self, probabilities: Sequence[float], num_accepted: int) -> None:
        """Learn from one round.

        Args:
            probabilities: The drafter's probability of each draft that was sent.
            num_accepted: How many stood; the next one, if there is one, was refused, and those after it not judged.
        """
        for index, probability in enumerate(probabilities[: num_accepted + 1]):
            self._judged.append((probability, index < num_accepted))
            self._since_fit += 1
        if self._since_fit >= self._REFIT_EVERY:
            self._fit()

    def of(self, probability: float) -> float:
        """Probability that a draft stands which the drafter gave ``probability``; constant between fitted steps."""
        value = self._steps[0][1]
        for start, level in self._steps:
            if start > probability:
                break
            value = level
        return value

    def _fit(self) -> None:
        self._since_fit = 0
        sums: dict[
            float, tuple[float, float]
        ] = {  # probability -> sum, weight: ties share one level
            (index + 0.5) / self._PRIOR_POINTS: (
                self._PRIOR_WEIGHT * (index + 0.5) / self._PRIOR_POINTS,
                self._PRIOR_WEIGHT,
            )
            for index in range(self._PRIOR_POINTS)
        }
        for probability, stood in self._judged:
            total, weight = sums.get(probability, (0.0, 0.0))
            sums[probability] = (total + stood, weight + 1.0)
        pools: list[tuple[float, float, float]] = []  # start, sum, weight
        for start, (total, weight) in sorted(sums.items()):
            while pools and pools[-1][1] * weight >= total * pools[-1][2]:  # the order is violated
                start, below, weight_below = pools.pop()
                total, weight = total + below, weight + weight_below
            pools.append((start, total, weight))
        self._steps = [(start, total / weight) for start, total, weight in pools]


class DraftLength:
    """Decides, token by token, whether to go on drafting, and how much of the draft to send. Not thread-safe.

    Args:
        costs: Predicted costs of a round, until rounds have been measured.
        most: Drafts a round at most.
        acceptance: What earlier answers of this pair of models have taught; None: nothing yet.
    """

    def __init__(
        self, costs: RoundCosts, *, most: int = MAX_DRAFT, acceptance: Acceptance | None = None
    ) -> None:
        self.most = most
        self._costs = costs
        self._rounds: deque[tuple[float, int]] = deque(maxlen=NUM_RECENT_ROUNDS)
        self.acceptance = acceptance or Acceptance()

    @property
    def seconds_per_token(self) -> float:
        """f_now: a ratio of sums over the last rounds, not a mean of ratios; predicted while there are none."""
        if self._rounds:
            return sum(seconds for seconds, _ in self._rounds) / sum(n for _, n in self._rounds)
        survival = geometric(self.acceptance.mean, self.most)
        return seconds_per_token(self._costs, survival, best_length(self._costs, survival))

    @property
    def num_rounds(self) -> int:
        """Rounds in the running mean."""
        return len(self._rounds)

    def should_draft(self, probabilities: Sequence[float]) -> bool:
        """Whether one more draft pays.

        Args:
            probabilities: The drafter's probability of each token drafted in this round so far.
        """
        if len(probabilities) >= self.most:
            return False
        stands = 1.0
        for probability in probabilities:
            stands *= self.acceptance.of(probability)
        return stands * self.acceptance.mean > self._costs.marginal_s / self.seconds_per_token

    def num_to_send(self, probabilities: Sequence[float]) -> int:
        """How many of the drafts are worth carrying and verifying; drafting them is paid for already."""
        least = self._costs.sending_s / self.seconds_per_token
        stands = 1.0
        for index, probability in enumerate(probabilities):
            stands *= self.acceptance.of(probability)
            if stands <= least:
                return index
        return len(probabilities)

    def observe(self, *, seconds: float, probabilities: Sequence[float], num_accepted: int) -> None:
        """Learn from one round.

        Args:
            seconds: The whole round, drafting included.
            probabilities: The drafter's probability of each draft that was sent.
            num_accepted: How many stood; the round emitted one token more.
        """
        self._rounds.append((seconds, num_accepted + 1))
        self.acceptance.observe(probabilities, num_accepted)

    def update_costs(self, costs: RoundCosts) -> None:
        """Take newly measured costs, of the link above all."""
        self._costs = costs
