"""x"""

from configs.diffmatch_jax import accelerator


def get_config():
    config = accelerator.get_config()
    config.objective.kind = "regression"
    return config
