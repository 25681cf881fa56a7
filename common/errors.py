"""Mistakes a user can mend, told in one line."""


class InputError(ValueError):
    """Wrong use or bad input; the command line prints it after `error:` and exits with code 2."""


class RunError(RuntimeError):
    """A run that cannot go on (non-finite loss, full disk); printed after `error:`, exit code 1."""


def bad(field: str, *, expected: object, got: object, fix: str) -> InputError:
    """Returns an `InputError` that reads `field: expected ..., got ...; fix`."""
    return InputError(f"{field}: expected {expected}, got {got}; {fix}")
