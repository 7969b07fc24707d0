"""Published checkpoints: files in the authors' layout, made here, against a plain account of what the authors' program computes."""

import json
import math
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import expressor as ex
from expressor.core.errors import FormatError
from expressor.systems.bmfm.estimator import BMFM

SPECIALS = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "[S]", "[T]", "[CLS_0]", "[CLS_1]"]
DIM, HEADS, LAYERS, HIDDEN = 8, 2, 3, 256


def cells() -> ad.AnnData:
    return ex.datasets.example("cells", seed=1)


def vocabulary() -> list[str]:
    """All genes but three, in another order than the data's, and two that the data lack."""
    genes = list(cells().var_names[:-3])
    order = np.random.default_rng(0).permutation(len(genes))
    return [*SPECIALS, "LOST1", *(genes[i] for i in order), "LOST2"]


class Weights(dict[str, Tensor]):
    """Random weights by name."""

    def __init__(self) -> None:
        super().__init__()
        self.draw = torch.Generator().manual_seed(0)

    def add(self, name: str, *shape: int, scale: float = 0.4) -> None:
        self[name] = scale * torch.randn(*shape, generator=self.draw)

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        self.add(f"{name}.weight", outputs, inputs)
        if bias:
            self.add(f"{name}.bias", outputs)

    def norm(self, name: str) -> None:
        self.add(f"{name}.weight", DIM)
        self.add(f"{name}.bias", DIM)

    def embeddings(self, start: str, kind: str) -> None:
        n = len(vocabulary())
        self.add(f"{start}.genes_embeddings.weight", n, DIM, scale=1.0)
        inner = DIM if kind == "scale_adapt" else 128
        self.add(f"{start}.expressions_embeddings.special_token_embeddings.weight", len(SPECIALS) + 1, inner)
        if kind == "scale_adapt":
            self.add(f"{start}.expressions_embeddings.basis", 4)
            self.linear(f"{start}.expressions_embeddings.dense", 8, DIM, bias=False)
        else:
            self.linear(f"{start}.expressions_embeddings.dense_1", 1, 128)
            self.linear(f"{start}.expressions_embeddings.dense_2", 128, DIM)
        self.norm(f"{start}.LayerNorm")

    def transform(self, start: str) -> None:
        self.linear(f"{start}.transform.dense", DIM, DIM)
        self.norm(f"{start}.transform.LayerNorm")


def bert(kind: str) -> Weights:
    found = Weights()
    found.embeddings("scbert.embeddings", kind)
    for i in range(LAYERS):
        start = f"scbert.encoder.layer.{i}"
        for one in ("query", "key", "value"):
            found.linear(f"{start}.attention.self.{one}", DIM, DIM)
        found.linear(f"{start}.attention.output.dense", DIM, DIM)
        found.norm(f"{start}.attention.output.LayerNorm")
        found.linear(f"{start}.intermediate.dense", DIM, HIDDEN)
        found.linear(f"{start}.output.dense", HIDDEN, DIM)
        found.norm(f"{start}.output.LayerNorm")
    return found


def llama(kind: str) -> Weights:
    found = Weights()
    found.embeddings("core.encoder.embeddings", kind)
    for i in range(LAYERS):
        start = f"core.encoder.blocks.{i}"
        if i:
            found.add(f"{start}.rms_1.scale", DIM)
        found.add(f"{start}.rms_2.scale", DIM)
        found.linear(f"{start}.attn.c_attn", DIM, 3 * DIM, bias=False)
        found.linear(f"{start}.attn.proj", DIM, DIM, bias=False)
        found.linear(f"{start}.mlp.c_fc1", DIM, HIDDEN, bias=False)
        found.linear(f"{start}.mlp.c_fc2", DIM, HIDDEN, bias=False)
        found.linear(f"{start}.mlp.c_proj", HIDDEN, DIM, bias=False)
    found.linear("core.pooler.dense", DIM, DIM)
    return found


def config(kind: str, **more: Any) -> dict[str, Any]:
    fields = [
        {"field_name": "genes", "vocab_size": len(vocabulary()), "is_input": True, "tokenization_strategy": "tokenize"},
        {
            "field_name": "expressions", "is_input": True, "tokenization_strategy": "continuous_value_encoder",
            "num_special_tokens": len(SPECIALS), "encoder_kwargs": {"kind": kind, "zero_as_special_token": True}
            | ({"n_sin_basis": 4, "trainable": True} if kind == "scale_adapt" else {}),
            "decode_modes": {"wced": {"vocab_field": "genes", "logit_outputs": ["is_zero_bce", "mse"]}},
        },
    ]  # fmt: skip
    return {
        "hidden_size": DIM, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu", "position_embedding_type": None, "fields": fields, "label_columns": None,
    } | more  # fmt: skip


def write(folder: Path, weights: Weights, settings: dict[str, Any]) -> str:
    (folder / "tokenizers" / "genes").mkdir(parents=True)
    (folder / "tokenizers" / "genes" / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({name: one.contiguous() for name, one in weights.items()}, folder / "model.safetensors")
    return str(folder)


# What the authors' program computes, cell by cell -----------------------------------------------------------------------------


def value_vectors(weights: Weights, start: str, kind: str, x: Tensor) -> Tensor:
    """Special values are negative, -(id + 1); zero has the last row of the table."""
    table = weights[f"{start}.special_token_embeddings.weight"]
    inside = []
    for one in x:
        if one <= 0:
            inside.append(table[len(table) - 1 if one == 0 else int(-(one + 1))])
        elif kind == "scale_adapt":
            angle = one * weights[f"{start}.basis"]
            inside.append(weights[f"{start}.dense.weight"] @ torch.cat([angle.sin(), angle.cos()]))
        else:
            first = weights[f"{start}.dense_1.weight"][:, 0] * one + weights[f"{start}.dense_1.bias"]
            inside.append(F.leaky_relu(first))
    found = torch.stack(inside)
    if kind == "scale_adapt":
        return found
    return F.linear(F.leaky_relu(found), weights[f"{start}.dense_2.weight"], weights[f"{start}.dense_2.bias"])


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    parts = []
    for q, k, v in zip(*(one.chunk(HEADS, dim=1) for one in (query, key, value))):
        parts.append(torch.softmax(q @ k.T / math.sqrt(q.shape[1]), 1) @ v)
    return torch.cat(parts, 1)


def plain(weights: Weights, kind: str, prepended: list[str], genes: list[str], x: Tensor) -> Tensor:
    """Return the encoder's output for one cell: prepended tokens, genes, [SEP]."""
    ids = {name: i for i, name in enumerate(vocabulary())}
    names = [*prepended, *genes, "[SEP]"]
    codes = torch.tensor([-(ids[one] + 1.0) for one in (*prepended, "[SEP]")])
    values = torch.cat([codes[:-1], x, codes[-1:]])
    style = "scbert" if any(name.startswith("scbert") for name in weights) else "core.encoder"
    start = f"{style}.embeddings"
    h = weights[f"{start}.genes_embeddings.weight"][[ids[one] for one in names]]
    h = h + value_vectors(weights, f"{start}.expressions_embeddings", kind, values)

    def normed(h: Tensor, name: str) -> Tensor:
        return F.layer_norm(h, (DIM,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    def rms(h: Tensor, name: str) -> Tensor:
        return weights[name] * h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + 1e-5)

    def dense(h: Tensor, name: str) -> Tensor:
        return F.linear(h, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    h = normed(h, f"{start}.LayerNorm")
    for i in range(LAYERS):
        if style == "scbert":
            one = f"scbert.encoder.layer.{i}"
            taken = attention(*(dense(h, f"{one}.attention.self.{part}") for part in ("query", "key", "value")))
            h = normed(h + dense(taken, f"{one}.attention.output.dense"), f"{one}.attention.output.LayerNorm")
            h = normed(
                h + dense(F.gelu(dense(h, f"{one}.intermediate.dense")), f"{one}.output.dense"),
                f"{one}.output.LayerNorm",
            )
        else:
            one = f"core.encoder.blocks.{i}"
            seen = rms(h, f"{one}.rms_1.scale") if i else h
            h = h + dense(attention(*dense(seen, f"{one}.attn.c_attn").split(DIM, dim=1)), f"{one}.attn.proj")
            seen = rms(h, f"{one}.rms_2.scale")
            h = h + dense(
                F.silu(dense(seen, f"{one}.mlp.c_fc1")) * dense(seen, f"{one}.mlp.c_fc2"), f"{one}.mlp.c_proj"
            )
    return h


def shown(data: ad.AnnData, cell: int, *, zeros: bool) -> tuple[list[str], Tensor]:
    """Return genes and values of a cell: all that the checkpoint knows, on the scale of their sum."""
    known = [name for name in data.var_names if name in vocabulary()]
    counts = data[cell, known].X.toarray()[0]
    share = torch.from_numpy(np.log1p(1e4 * counts / counts.sum()))
    kept = np.arange(len(known)) if zeros else np.flatnonzero(counts)
    return [known[i] for i in kept], share[kept]


def untouched(path: str, **changes: Any) -> BMFM:
    return BMFM(start_from=path, objectives="", label="cell_type", **changes).fit(ex.datasets.example("cells"))


@pytest.mark.parametrize("kind", ["scale_adapt", "mlp_with_special_token_embedding"])
def test_bert_with_whole_cell_decoding(kind: str, tmp_path: Path) -> None:
    weights = bert(kind)
    weights.transform("cls.predictions")
    weights.linear("cls.predictions.decoder.field_decoders.expressions_wced", DIM, 2 * len(vocabulary()))
    model = untouched(write(tmp_path / "hub", weights, config(kind)))
    data = cells()
    found, restored = model.transform(data), model.expected_expression(data)
    for cell in range(3):
        h = plain(weights, kind, ["[CLS]"], *shown(data, cell, zeros=False))[0]
        assert np.allclose(found[cell], h, atol=1e-4)
        start = "cls.predictions.transform"
        inside = F.gelu(F.linear(h, weights[f"{start}.dense.weight"], weights[f"{start}.dense.bias"]))
        inside = F.layer_norm(
            inside, (DIM,), weights[f"{start}.LayerNorm.weight"], weights[f"{start}.LayerNorm.bias"], 1e-12
        )
        start = "cls.predictions.decoder.field_decoders.expressions_wced"
        zero, value = F.linear(inside, weights[f"{start}.weight"], weights[f"{start}.bias"]).view(-1, 2).T
        expected = dict(zip(vocabulary(), (torch.sigmoid(-zero) * value).clamp(min=0).tolist()))
        assert np.allclose(restored.iloc[cell], [expected[name] for name in restored.columns], atol=1e-4)
    assert set(model.genes_in_) == set(vocabulary()) - set(SPECIALS)
    assert "2 missing (LOST1, LOST2); 3 others not used" in model.gene_report_
    again = ex.load(model.save(tmp_path / "saved"))
    assert np.array_equal(again.transform(data), found)


def test_llama_with_a_token_for_each_label(tmp_path: Path) -> None:
    weights = llama("scale_adapt")
    labels = [
        {"label_column_name": "cell_type_ontology_term_id", "decode_from": 1},
        {"label_column_name": "tissue", "decode_from": 2},
    ]
    path = write(tmp_path / "hub", weights, config("scale_adapt", label_columns=labels))
    model, data = untouched(path), cells()
    tokens = ["[CLS]", "[CLS_0]", "[CLS_1]"]
    found, first = model.transform(data), untouched(path, pooling="cell").transform(data)
    for cell in range(3):
        h = plain(weights, "scale_adapt", tokens, *shown(data, cell, zeros=True))
        assert np.allclose(found[cell], h[1], atol=1e-4)
        assert np.allclose(first[cell], h[0], atol=1e-4)


def test_masked_modelling_with_labels_pools_by_what_they_trained(tmp_path: Path) -> None:
    weights = llama("scale_adapt")
    weights.transform("cls.predictions.predictions")
    decoders = "cls.predictions.predictions.decoder.field_decoders"
    for name, size in (
        ("expressions_regression", 1),
        ("expressions_is_zero", 1),
        ("genes_token_scores", len(vocabulary())),
    ):
        weights.linear(f"{decoders}.{name}", DIM, size)
    path = write(tmp_path / "hub", weights, config("scale_adapt", label_columns=[{"label_column_name": "cell_type"}]))
    model, data = untouched(path), cells()
    found = model.transform(data)
    for cell in range(2):
        h = plain(weights, "scale_adapt", ["[CLS]"], *shown(data, cell, zeros=True))[0]
        pooled = torch.tanh(F.linear(h, weights["core.pooler.dense.weight"], weights["core.pooler.dense.bias"]))
        assert np.allclose(found[cell], pooled, atol=1e-4)
    # A gene that was not measured is asked for as a masked value.
    part = data[:, 1:].copy()
    gene = str(data.var_names[0])
    position = list(model.genes_in_).index(gene)
    names, x = shown(part, 0, zeros=True)
    missing = [gene, "LOST1", "LOST2"]
    mask = -(SPECIALS.index("[MASK]") + 1.0)
    h = plain(weights, "scale_adapt", ["[CLS]"], [*names, *missing], torch.cat([x, torch.full((3,), mask)]))[-4]
    start = "cls.predictions.predictions.transform"
    inside = F.gelu(F.linear(h, weights[f"{start}.dense.weight"], weights[f"{start}.dense.bias"]))
    inside = F.layer_norm(
        inside, (DIM,), weights[f"{start}.LayerNorm.weight"], weights[f"{start}.LayerNorm.bias"], 1e-12
    )
    value, zero = (
        F.linear(inside, weights[f"{decoders}.expressions_{one}.weight"], weights[f"{decoders}.expressions_{one}.bias"])
        for one in ("regression", "is_zero")
    )
    expected = float((torch.sigmoid(-zero) * value).clamp(min=0))
    assert np.isclose(model.expected_expression(part).iloc[0, position], expected, atol=1e-3)


def test_fine_tuning_a_checkpoint(tmp_path: Path) -> None:
    model = BMFM(
        start_from=write(tmp_path / "hub", bert("scale_adapt"), config("scale_adapt")), objectives="", label="cell_type",
        finetune="lora", lora_rank=2,
    )  # fmt: skip
    model.tuning.set_params(epochs=1)
    assert model.fit(ex.datasets.example("cells")).predict(cells()).shape == (80, 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w, c: w.pop("scbert.encoder.layer.1.output.dense.bias"), "scbert.encoder.layer.1.output.dense.bias"),
        (lambda w, c: c.update(position_embedding_type="absolute"), "position embeddings"),
        (lambda w, c: c["fields"][1].update(tokenization_strategy="tokenize"), "values in bins"),
        (lambda w, c: c["fields"].append({"field_name": "perturbations"}), "inputs beside genes"),
        (lambda w, c: w.add("scbert.embeddings.genes_embeddings.weight", 9, DIM), "does not fit its vocabulary"),
        (lambda w, c: c.update(num_attention_heads=3), "does not fit its own description"),
        (lambda w, c: c.pop("hidden_size"), "does not fit its own description"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    weights, settings = bert("scale_adapt"), config("scale_adapt")
    spoil(weights, settings)
    with pytest.raises(FormatError, match=message):
        untouched(write(tmp_path / "hub", weights, settings))


def test_files_that_are_damaged_or_could_run_code_are_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "hub", bert("scale_adapt"), config("scale_adapt")))
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(FormatError, match="cannot be read"):
        untouched(str(path))
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(FormatError, match="could run code"):
        untouched(str(path))
    save_file({"bert.weight": torch.zeros(2)}, path / "model.safetensors")
    with pytest.raises(FormatError, match="holds no BMFM-RNA"):
        untouched(str(path))
    (path / "tokenizers" / "genes" / "vocab.txt").write_text("A\nB\n")
    with pytest.raises(FormatError, match="holds no vocabulary"):
        untouched(str(path))
