"""Computing on a thread that then ends, so that the engine's thread is the only one with helpers.

OpenMP keeps a team of helpers for every thread that has ever computed. Once there are more of them than cores, libgomp's teams
no longer spin between two operations but sleep, and each operation of a step waits for a wake-up: with the model loaded on one
thread and run on another, two cores did a step in 101 ms that takes 53 with one team alone, and 75 on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_passing(work: Callable[[], T]) -> T:
    """Run something on a thread of its own, wait for it, and end the thread with its team; errors are the caller's."""
    with ThreadPoolExecutor(1, thread_name_prefix="tandem-passing") as thread:
        return thread.submit(work).result()
