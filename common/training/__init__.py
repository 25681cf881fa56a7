"""Training: one state, one step, one loop, for every method and any number of devices."""

from common.training.keys import Purpose, key_for
from common.training.loop import Outcome, train
from common.training.run import run
from common.training.settings import Settings, build
from common.training.state import TrainState

__all__ = ["Outcome", "Purpose", "Settings", "TrainState", "build", "key_for", "run", "train"]
