"""Training: a plain PyTorch loop. `train` is the one public function of it.

run.py            train(): opens the data, starts or resumes a run
trainer.py        one run: epochs, validation, what is saved when
step.py           one optimizer step: gradients, memory, finite numbers
network.py        the model with what only its training needs (auxiliary heads, teacher)
state.py          a run as tensors, and back
processes.py      one process of several, started by torchrun
batch_norm.py     statistics of one process, of all, or none
freezing.py       parts that do not learn
interruption.py   Ctrl-C between two steps
"""

from solo_edge.train.predictor import model_predictor
from solo_edge.train.run import train
from solo_edge.train.trainer import Trainer

__all__ = ["Trainer", "model_predictor", "train"]
