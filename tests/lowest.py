"""Prints the lowest versions that the installed distribution declares, as constraints for pip.

PYTHON tests/lowest.py > constraints.txt
"""

from importlib.metadata import requires

from packaging.requirements import Requirement

for requirement in map(Requirement, requires("scorebridge")):
    if requirement.marker is None:  # not of an extra
        (lowest,) = (each.version for each in requirement.specifier if each.operator == ">=")
        print(f"{requirement.name}=={lowest}")
