"""Set-up of the distribution `scorebridge`; tool settings are in pyproject.toml.

Lower bounds are the oldest releases that train, sample and match (`make smoke-lowest`); an upper bound has its reason
beside it, and `make smoke-newest` tries the newest releases.
"""

import pathlib

import setuptools

TFDS = [
    "tensorflow-datasets>=4.9.10",  # the first that works with protobuf 7
    "array_record>=0.8.1",
    "importlib_resources>=6.4",  # tensorflow-datasets imports it and does not require it
]

setuptools.setup(
    name="scorebridge",
    version="0.1.0",
    description="Denoisers, dense matching and phase-space bridges: three diffusion papers as one JAX codebase",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"": "."},  # an editable installation is then one line in a .pth file, which type checkers follow
    packages=setuptools.find_packages(
        include=[
            f"{name}{dots}"
            for name in ("common", "gahb", "diffmatch_jax", "phase_bridge", "configs")
            for dots in ("", ".*")
        ]
    ),
    package_data={"": ["py.typed"]} | {name: ["weights/*"] for name in ("diffmatch_jax", "gahb", "phase_bridge")},
    install_requires=[
        "diffrax>=0.7.0",
        "flax>=0.12.0",
        "grain>=0.2.16",  # the first whose iterators can be closed
        "jax>=0.10.0",
        "jaxtyping>=0.3.0",
        "matplotlib>=3.9.0",
        "ml-collections>=1.0.0",
        "ml_dtypes>=0.5.0",
        "numpy>=2.0.0",
        "optax>=0.2.6",
        # From 0.12.5 on arrays are saved without a copy; 1.0 makes another interface, orbax.checkpoint.v1, the default.
        "orbax-checkpoint>=0.12.5,<1",
        "pillow>=11.0.0",
        "PyWavelets>=1.6.0",
        "safetensors>=0.7.0",  # the first with complex numbers
        "scikit-image>=0.25.0",
        "scipy>=1.14.0",
        "tensorboardX>=2.6.2.2",
        "tqdm>=4.66.0",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "test": [
            "chex>=0.1.90",
            "flatbuffers>=24.3.25",
            "hypothesis>=6.100.0",
            "psutil>=6.0.0",
            "pyright[nodejs]==1.1.414",  # each release asks other things of the code
            "pytest>=8.3.0",
            "pytest-timeout>=2.3.1",
            "pytest-xdist>=3.6.1",
            "ruff>=0.9,<1",  # what it asks of the code grows with each series
            *TFDS,
        ],
        "tfds": TFDS,
        "classical": ["opencv-python-headless>=4.10.0.84"],
        "tracking": ["wandb>=0.19.0"],
        "export": ["flatbuffers>=24.3.25"],
        "docs": [
            "latex2mathml>=3.77.0",
            "mkdocs-material>=9.6.0,<10",  # the theme of MkDocs 1
            "mkdocs>=1.6.1,<2",  # 2 has neither plugins nor hooks
            "mkdocstrings-python>=2.0.0",
        ],
        "dev": ["torch>=2.5.0"],  # only to write the PyTorch files that tests read
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
