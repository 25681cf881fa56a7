"""A package is imported in an instant: what is heavy waits until a name is used."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["common", "configs", "diffmatch_jax", "gahb", "phase_bridge"])
def test_importing_a_package_imports_nothing_heavy(package):
    code = (
        f"import sys, {package}\n"
        "heavy = {'jax', 'flax', 'optax', 'numpy', 'scipy', 'matplotlib', 'PIL', 'skimage', 'orbax', 'grain', 'tqdm',\n"
        "         'ml_collections', 'tensorboardX', 'tensorflow_datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
