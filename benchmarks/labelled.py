"""Which seed grows where: encoder, decoder, encoder-decoder and LSTM on labelled tasks, each given the same CPU time.

    python benchmarks/labelled.py DATA WORK [NAME …] [--quick]

DATA holds the sets that docs/finetune.md names. Every entry is one `fledge finetune`; its number of steps is what fits
into its seconds of CPU time of one thread (measured on a few steps first), so a busy machine changes nothing but the
wait. Results lie in WORK/NAME and are not made again; the table of all of them is printed at the end.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from fledge.core.log import Log
from fledge.stages.finetune import FinetuneConfig, finetune

TRIAL = 12  # steps that are timed first, the first few of them not counted


def timed(config: FinetuneConfig, out: Path) -> dict[str, Any]:
    """One fine-tuning: the stage's summary with the CPU seconds of training and of measuring."""
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    began = time.process_time()
    summary = finetune(config, out, Log(out))
    return summary | {"cpu_seconds": time.process_time() - began}


def seconds_per_step(config: FinetuneConfig, work: Path) -> tuple[float, int]:
    """CPU seconds of a training step, and the steps of an epoch, from a run that measures on nothing worth counting."""
    import fledge.stages.finetune as stage

    marks: list[float] = []
    sizes: list[int] = []

    class Watched(stage.Session):
        def fit(self, loss: Any) -> Any:
            sizes.append(self.batches.steps_per_epoch)  # type: ignore[attr-defined]
            self.steps = TRIAL
            for step in super().fit(loss):
                marks.append(time.process_time())
                yield step
            raise KeyboardInterrupt

    original, stage.Session = stage.Session, Watched  # type: ignore[misc]
    try:
        timed(config.model_copy(update={"epochs": 1.0}), work / "trial")
    except KeyboardInterrupt:
        pass
    finally:
        stage.Session = original  # type: ignore[misc]
    return (marks[-1] - marks[2]) / (len(marks) - 3), sizes[0]
