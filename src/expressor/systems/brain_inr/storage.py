"""What a fit keeps, as plain values, arrays and tensors; and back."""

from collections.abc import Mapping
from typing import Any

import torch

from expressor.nn.fields import Siren
from expressor.systems.brain_inr.calibration import Calibration
from expressor.systems.brain_inr.fitting import FittedField, Scales, build
from expressor.systems.brain_inr.genes import GeneInputs
from expressor.systems.brain_inr.inputs import Frame
from expressor.systems.brain_inr.members import FourierMember, Member, Neighbours, Process, SirenMember

_KINDS = {FourierMember: "network", SirenMember: "network", Neighbours: "neighbours", Process: "process"}


def pack(fields: tuple[FittedField, ...]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return plain values, arrays and tensors of all fields."""
    kept: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for i, one in enumerate(fields):
        frame, frame_arrays = one.frame.state()
        kept.append({
            "frame": frame, "donors": list(one.scales.donors), "gene_kind": one.genes.kind, "weights": list(one.weights),
            "members": [_KINDS[type(member)] for member in one.members],  # type: ignore[index]
        })  # fmt: skip
        own = {"mean": one.scales.mean, "spread": one.scales.spread, "gene_vectors": one.genes.vectors,
               "gene_shift": one.genes.shift, "gene_scale": one.genes.scale, **frame_arrays}  # fmt: skip
        if one.calibration is not None:
            own |= {f"calibration_{name}": value for name, value in one.calibration.arrays().items()}
        arrays |= {f"{i}.{name}": value for name, value in own.items()}
        for j, member in enumerate(one.members):
            tensors |= {f"{i}.{j}.{name}": value for name, value in member.tensors().items()}
    return {"fields": kept}, arrays, tensors


def unpack(
    model: Any, values: Mapping[str, Any], arrays: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], n_genes: int
) -> tuple[FittedField, ...]:
    """Rebuild what :func:`pack` took apart."""
    fields = []
    for i, kept in enumerate(values["fields"]):
        own = _below(arrays, f"{i}.")
        frame = Frame.from_state(kept["frame"], own)
        genes = GeneInputs(str(kept["gene_kind"]), own["gene_vectors"], own["gene_shift"], own["gene_scale"])
        scales = Scales(tuple(map(str, kept["donors"])), own["mean"], own["spread"])
        calibration = Calibration.from_arrays(_below(own, "calibration_")) if "calibration_radius" in own else None
        members = tuple(
            _member(kind, model, frame, genes, n_genes, _below(tensors, f"{i}.{j}."))
            for j, kind in enumerate(kept["members"])
        )
        fields.append(FittedField(frame, scales, genes, members, tuple(map(float, kept["weights"])), calibration))
    return tuple(fields)


def _member(
    kind: str, model: Any, frame: Frame, genes: GeneInputs, n_genes: int, tensors: Mapping[str, torch.Tensor]
) -> Member:
    if kind == "neighbours":
        return Neighbours.from_tensors(tensors)
    if kind == "process":
        return Process.from_tensors(tensors)
    module = build(model, frame, genes, n_genes)
    module.load_state_dict(dict(tensors))
    return SirenMember(module, torch.from_numpy(genes.vectors)) if isinstance(module, Siren) else FourierMember(module)


def _below(named: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
