"""x"""

from configs.diffmatch_jax import accelerator, bsds_stage2


def get_config():
    config, refining = accelerator.get_config(), bsds_stage2.get_config()
    config.task = refining.task
    config.variable.update(refining.variable)
    config.objective.update(refining.objective)
    config.stage2.update(refining.stage2)
    config.stage2.size = 64

    config.train.steps = 5000
    return config
