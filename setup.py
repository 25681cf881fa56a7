"""Set-up of the distribution `scorebridge`; tool settings are in pyproject.toml."""

import pathlib

import setuptools

TFDS = [
    "tensorflow-datasets>=4.9.9,<4.10",
    "array_record>=0.8.1,<0.9",
    "importlib_resources>=6.4,<8",  # tensorflow-datasets imports it without asking for it
]

setuptools.setup(
    name="scorebridge",
    version="0.1.0",
    description="Denoisers, dense matching and phase-space bridges: three diffusion papers as one JAX codebase",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=setuptools.find_packages(
        include=[
            f"{name}{dots}"
            for name in ("common", "gahb", "diffmatch_jax", "phase_bridge", "configs")
            for dots in ("", ".*")
        ]
    ),
    package_data={"diffmatch_jax": ["weights/*"]},
    install_requires=[
        "diffrax>=0.7,<0.8",
        "flax>=0.12,<0.13",
        "grain>=0.2.16,<0.3",  # the first whose iterators can be closed
        "jax>=0.10,<0.13",
        "matplotlib>=3.9,<4",
        "ml-collections>=1.0,<2",
        "ml_dtypes>=0.5,<0.7",
        "numpy>=2.0,<3",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11,<14",
        "PyWavelets>=1.6,<2",
        "scikit-image>=0.25,<0.27",
        "scipy>=1.14,<2",
        "tensorboardX>=2.6.2,<3",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "test": [
            "chex>=0.1.90,<0.2",
            "flatbuffers>=24,<27",
            "hypothesis>=6.100,<7",
            "psutil>=6,<8",
            "pytest>=8.3,<10",
            "pytest-timeout>=2.3,<3",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.9,<1",
            "safetensors>=0.5,<1",
            *TFDS,
        ],
        "tfds": TFDS,
        "classical": ["opencv-python-headless>=4.10,<6"],
        "tracking": ["wandb>=0.19,<1"],
        "export": ["flatbuffers>=24,<27"],
        "dev": ["torch>=2.5,<3"],  # only to write the PyTorch files that tests read
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "License :: OSI Approved :: MIT License",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
