"""Mutants whose outputs are not what they promise, or that do not survive saving and resuming."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from expressor.train import loop

from .record import Patch, around, breaks, predictions


@breaks("outputs_are_finite", "float32 (predict)")
def predicts_doubles(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table.astype(np.float64))


@breaks("outputs_are_finite", "finite (predict)")
def predicts_an_infinity(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table.where(table < table.to_numpy().max(), np.float32(np.inf)))


@breaks("outputs_are_finite", "one row an observation (predict)")
def drops_a_row(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table[1:])


@breaks("save_and_load", "save and load keep every bit")
def saves_in_half_precision(patch: Patch, kind: Any) -> None:
    def state(original: Any, self: Any) -> Any:
        found = original(self)
        return dataclasses.replace(found, tensors={"beta": found.tensors["beta"].half().float()})

    around(patch, kind, "_state", state)


@breaks("save_and_load", "save and load keep the parameters")
def loads_default_parameters(patch: Patch, kind: Any) -> None:
    around(
        patch, kind, "_restore", lambda original, self, state: (original(self, state), setattr(self, "penalty", 1.0))
    )


@breaks("save_and_load", "save and load keep the description")
def describes_what_is_not_saved(patch: Patch, kind: Any) -> None:
    around(
        patch, kind, "_fit", lambda original, self, *a, **k: (original(self, *a, **k), setattr(self, "n_spots_", 84))
    )
    around(patch, kind, "_methods", lambda original, self: f"{original(self)} {getattr(self, 'n_spots_', '?')} spots.")


@breaks("save_and_load", "nothing of the user's is lost")
def saves_over_anything(patch: Patch, kind: Any) -> None:
    def save(original: Any, self: Any, folder: Any) -> Path:
        for one in Path(folder).glob("*.txt"):
            one.write_text("gone")
        return original(self, folder)

    around(patch, kind, "save", save)


@breaks("save_and_load", "saving leaves nothing else behind")
def leaves_a_backup_behind(patch: Patch, kind: Any) -> None:
    around(
        patch,
        kind,
        "save",
        lambda original, self, folder: ((Path(folder).parent / "backup").touch(), original(self, folder))[1],
    )


@breaks("resume", "10 steps = 5 + resumed 5")
def resumes_with_a_fresh_optimiser(patch: Patch, kind: Any) -> None:
    def save(self: Any, path: Path) -> None:
        for one in self.optimizer.state.values():
            one["momentum_buffer"].zero_()
        original(self, path)

    original = loop._State.save
    patch.setattr(loop._State, "save", save)


@breaks("resume", "10 steps = 5 + resumed 5")
def starts_the_batches_anew(patch: Patch, kind: Any) -> None:
    original = loop._State._take_up

    def take_up(self: Any, saved: Any, device: Any) -> None:
        original(self, saved, device)
        self.step_in_epoch = 0

    patch.setattr(loop._State, "_take_up", take_up)


@breaks("resume", "the resume folder holds checkpoints")
def ignores_the_resume_folder(patch: Patch, kind: Any) -> None:
    around(patch, kind, "_fit", lambda original, self, adata, val, resume: original(self, adata, val=val, resume=None))


@breaks("resume", "checkpoints of another fit are refused: nothing was raised")
def takes_any_checkpoint(patch: Patch, kind: Any) -> None:
    patch.setattr(kind, "_open_resume", lambda self, folder, data: ((folder / "run.json").touch(), folder)[1])
