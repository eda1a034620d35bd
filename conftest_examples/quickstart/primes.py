"""The code under test. It lies beside the tests, is installed nowhere, and travels to the node by itself."""


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def count_primes(start: int, stop: int) -> int:
    if start > stop:
        raise ValueError(f"start {start} lies behind stop {stop}")
    return sum(map(is_prime, range(start, stop)))
