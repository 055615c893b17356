"""The numbers that can be a seed, for all commands."""

from histocli.errors import UsageError

MAX_SEED = (1 << 32) - 1  # seeds have 32 bits


def is_seed(number: int) -> bool:
    """Return whether a number can be a seed."""
    return 0 <= number <= MAX_SEED


def check_seed(seed: int) -> None:
    """Raise `UsageError` for a number that cannot be the value of `--seed`."""
    if not is_seed(seed):
        raise UsageError(f"--seed {seed}: a whole number from 0 to {MAX_SEED} is needed")
