"""Moves outlier channels from activations into weights before both become 8-bit integers.

A few channels of a decoder's activations are far larger than the rest, and one scale a position has to serve them all. Dividing
a channel by s and multiplying the matching weights by s changes nothing in exact arithmetic (SmoothQuant, 2211.10438), with
``s = activation**a / weight**(1 - a)`` of their largest magnitudes. The division costs nothing at run time: it goes into the
norm before.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from partition.stages.layer_weights import Floats

# A channel that never moved would otherwise get a factor that has no meaning.
_LEAST: Final = np.float32(1e-5)


def smoothing_factors(inputs: Floats, weight: Floats, exponent: float) -> Floats:
    """What to divide the channels of activations by, and multiply the rows of their weights with.

    Args:
        inputs: Activations that were seen, ``(positions, channels)``.
        weight: ``(channels, outputs)``, all matrices that read them.
        exponent: 1 spares the activations, 0 the weights.

    Returns:
        ``(channels,)``, with a geometric mean of 1.
    """
    # Each output gets its own scale, so only a weight's share of its column matters.
    share = np.abs(weight)
    share /= np.maximum(share.max(axis=0), _LEAST)
    largest_share = np.maximum(share.max(axis=1), _LEAST)
    largest = np.maximum(np.abs(inputs).max(axis=0), _LEAST)
    factors = largest**exponent / largest_share ** (1 - exponent)
    factors /= np.exp(np.log(factors).mean())
    result: Floats = factors.astype(np.float32)
    return result
