"""Prints the lowest versions that the installed distribution declares, as constraints for pip.

PYTHON tests/lowest.py > constraints.txt
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import requires

from packaging.requirements import Requirement


def constraints(requirements: Iterable[str]) -> Iterator[str]:
    """Yields "name==VERSION" for every "name>=VERSION" that is not of an extra."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is None:
            (lowest,) = (each.version for each in requirement.specifier if each.operator == ">=")
            yield f"{requirement.name}=={lowest}"


if __name__ == "__main__":
    print(*constraints(requires("scorebridge")), sep="\n")
