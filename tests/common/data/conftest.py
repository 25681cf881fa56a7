"""Prepared data sets, written by TFDS itself."""

import importlib
import sys
import textwrap

import pytest

BUILDER = """
    import io
    import pathlib

    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image


    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = pathlib.Path(__file__).parent
        name = "{name}"

        def _info(self):
            features = {{"image": {feature}, "label": tfds.features.ClassLabel(num_classes=3)}}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {splits}

        def _generate_examples(self, seed, count):
            draw = np.random.default_rng(seed)
            for number in range(count):
                shape = {shape}
                image = draw.integers(0, 256, shape).astype(np.uint8)
                image = {values}
                if {encode}:
                    out = io.BytesIO()
                    Image.fromarray(image).save(out, "PNG")
                    out.seek(0)
                    image = out
                yield number, {{"image": image, "label": number % 3}}
"""


@pytest.fixture(scope="session")
def prepare(tmp_path_factory):
    """Writes a data set with TFDS itself, which needs no TensorFlow for this; returns the folder of its version."""
    root = tmp_path_factory.mktemp("prepared")
    sys.path.insert(0, str(root))

    def write(name, *, feature, shape, splits, encode=True, values="image"):
        package = root / f"{name}_package"
        if not package.exists():
            package.mkdir()
            (package / "__init__.py").touch()
            text = textwrap.dedent(BUILDER).format(
                name=name, feature=feature, shape=shape, splits=splits, encode=encode, values=values
            )
            (package / "builder.py").write_text(text)
            importlib.invalidate_caches()
            module = importlib.import_module(f"{package.name}.builder")
            module.Builder(data_dir=root / "data", file_format="array_record").download_and_prepare()
        return root / "data" / name / "1.0.0"

    yield write
    sys.path.remove(str(root))


@pytest.fixture(scope="session")
def fixed(prepare):
    return prepare(
        "tiny_fixed",
        feature="tfds.features.Image(shape=(6, 6, 3))",
        shape="(6, 6, 3)",
        splits='{"train": self._generate_examples(0, 12), "test": self._generate_examples(1, 5)}',
    )


@pytest.fixture(scope="session")
def ragged(prepare):
    return prepare(
        "tiny_ragged",
        feature="tfds.features.Image(shape=(None, None, 1))",
        shape="(5 + number, 9 - number % 2, 1)[: 2]",
        splits='{"train": self._generate_examples(0, 4), "val": self._generate_examples(1, 2)}',
    )
