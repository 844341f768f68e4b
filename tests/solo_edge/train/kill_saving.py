"""Kill a process that saves a run's files, again and again at random moments, and read what is left.

    python kill_saving.py RUN KILLS

Fails at the first file that cannot be read, or that is older than what was complete before the kill. A
program of its own, because it forks and must have a single thread to do so safely.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from solo_edge.checkpoint import Checkpoint, load_checkpoint, read_tensors, save_checkpoint
from solo_edge.config import TrainConfig, preset
from solo_edge.models.solov2 import SOLOv2
from solo_edge.run_folder import RunFolder, TrainingState

MODEL = preset("solov2-nano-256", num_classes=2)


def save_for_ever(run: Path, first: int, told: int) -> None:
    """As the trainer does, with step numbers from `first` on; each complete one is written to `told`."""
    folder, model = RunFolder(run), SOLOv2(MODEL)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for step in range(first, first + 1_000_000):
        checkpoint = Checkpoint(model, ("a", "b"), (1, 2), {}, {"step": step})
        save_checkpoint(run / "last.safetensors", checkpoint)
        tensors["mark"] = torch.full((1000,), float(step))
        folder.save_state(TrainingState(tensors, 0, step, 0, []))
        os.write(told, step.to_bytes(8, "little"))


def main() -> int:
    run, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    RunFolder(run).start(MODEL, TrainConfig(), {})
    rng = random.Random(0)
    complete = remains = 0
    for _ in range(kills):
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                save_for_ever(run, complete + 1, writing)
            finally:
                os._exit(1)
        os.close(writing)
        if complete == 0:
            complete = int.from_bytes(os.read(reading, 8), "little")
        time.sleep(rng.uniform(0.0, 0.4))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status), "the process ended by itself"
        while told := os.read(reading, 8):
            complete = int.from_bytes(told, "little")
        os.close(reading)
        remains += len(list(run.glob(".*")))
        step = load_checkpoint(run / "last.safetensors").training["step"]
        state = RunFolder(run).resume(MODEL, TrainConfig())
        assert state is not None
        assert state.step in (complete, complete + 1), (state.step, complete)
        assert step in (complete, complete + 1, complete + 2), (step, complete)
        assert read_tensors(run / "resume.safetensors")[0]["mark"].eq(state.step).all()
        assert not list(run.glob(".*")), "resuming removes what a killed process left"
        complete = state.step
    print(
        f"{kills} kills, {remains} of them in the middle of a file, {complete} states, all readable"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
