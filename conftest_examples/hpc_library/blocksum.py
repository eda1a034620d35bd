"""A library that is meant for clusters: it asks the scheduler how many cores it has."""

import os
from concurrent.futures import ThreadPoolExecutor


def cores_given() -> int:
    """The cores that this process may use: what the scheduler gave, not what the machine has."""
    return len(os.sched_getaffinity(0))


def block_sum(numbers: list[int], blocks: int) -> int:
    size = max(1, len(numbers) // blocks)
    parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    with ThreadPoolExecutor(blocks) as pool:
        return sum(pool.map(sum, parts))
