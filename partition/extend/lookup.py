"""Guesses at what comes next, for nothing: how the text went on where its last tokens stood before (2304.04487).

An impression repeats phrases of its findings. A drafter that runs such a guess in one pass, instead of token by token, drafts
the same tokens in fewer passes.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # tokens that must stand there before; of one alone, most are chance
MOST_GUESSED = 6  # of which a pass over all costs a device a third more than a pass over one


def continuation(ids: Sequence[int], most: int = MOST_GUESSED) -> tuple[int, ...]:
    """What followed the last time that the final tokens stood in ``ids``, the longest run of them first.

    Args:
        ids: Prompt, answer and drafts so far.
        most: Tokens to return at most.

    Returns:
        Up to ``most`` ids; empty when the final tokens have never stood there before.
    """
    if most < 1:
        return ()
    for length in range(min(LONGEST, len(ids) - 1), SHORTEST - 1, -1):
        end = len(ids) - length
        final = ids[end:]
        for start in range(end - 1, -1, -1):
            if ids[start] == final[0] and ids[start : start + length] == final:
                return tuple(ids[start + length : start + length + most])
    return ()
