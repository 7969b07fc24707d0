"""Published checkpoints in Hugging Face's layout: the authors' names of weights, brought to those of this package.

A folder holds ``config.json``, ``model.safetensors``, and the vocabulary of genes in ``tokenizers/genes`` (``vocab.txt``,
``vocab.json`` or ``tokenizer.json``). What belongs to the weights is taken from there and bound to them: the kinds of the parts,
which tokens stand for a cell and which of them is its vector.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from expressor.core.errors import FormatError, GeneError
from expressor.core.log import logger
from expressor.core.serial import read_json
from expressor.data import files
from expressor.data.tokens import Tokeniser
from expressor.estimator.storage import read_tensors
from expressor.genes.vocab import GeneVocab
from expressor.systems.bmfm.architecture import Architecture
from expressor.systems.bmfm.objectives import Objective, wced
from expressor.systems.bmfm.start import Start

_CLS, _SEP, _MASK = "[CLS]", "[SEP]", "[MASK]"
_DEPTH = ("[S]", "[T]")
_SURE = 20.0  # logit of a value that is not zero, where no head says whether it is


def read_published(folder: Path, *, max_length: int) -> Start:
    """Read a published checkpoint of BMFM-RNA: BERT or Llama style, with or without labels.

    Heads of labels are left out, because a checkpoint does not name their classes.

    Parameters
    ----------
    folder
        As ``save_pretrained`` wrote it.
    max_length
        Most tokens of a cell.

    Raises
    ------
    FormatError
        A file is missing, truncated or of another model; or the network has parts that this package does not build, such as
        position embeddings. The message names them.
    """
    config = read_json(folder / "config.json")
    ids = _vocabulary(folder / "tokenizers" / "genes")
    tensors = {name: one.float() for name, one in read_tensors(_weights(folder)).items()}
    names = {name.split(".")[0] for name in tensors}
    if not names & {"scbert", "core"}:
        raise FormatError(f"{folder} holds no BMFM-RNA", expected="weights that begin with scbert. or core.",
                          got=", ".join(sorted(names)[:5]))  # fmt: skip
    try:
        return _Checkpoint(config, ids, tensors, max_length).start()
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{folder} does not fit its own description ({type(error).__name__}: {error})") from error


def _weights(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if path.exists():
        return path
    pickled = sorted(one.name for one in folder.iterdir() if one.suffix in (".bin", ".ckpt", ".pt", ".pth"))
    if pickled:
        raise FormatError(f"{folder / pickled[0]} could run code when it is read", expected="model.safetensors",
                          fix="Convert it where you trust it: safetensors.torch.save_file(state_dict, ...).")  # fmt: skip
    raise FormatError(f"{folder} holds no weights", expected="model.safetensors")


def _vocabulary(folder: Path) -> dict[str, int]:
    """Return the id of each token of the genes' vocabulary."""
    found: Any = None
    if (folder / "vocab.txt").exists():
        with files.reading(folder / "vocab.txt", "vocabulary"):
            lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        found = {name: i for i, name in enumerate(lines)}
    elif (folder / "vocab.json").exists():
        found = read_json(folder / "vocab.json")
    elif (folder / "tokenizer.json").exists():
        found = read_json(folder / "tokenizer.json")
        found = found.get("model", {}).get("vocab") if isinstance(found, dict) else None
    whole = isinstance(found, dict) and sorted(found.values()) == list(range(len(found)))
    if not whole or not {_CLS, _SEP, _MASK} <= set(found):
        raise FormatError(f"{folder} holds no vocabulary of genes", expected="vocab.txt, vocab.json or tokenizer.json with "
                          f"{_CLS}, {_SEP} and {_MASK}, ids from 0 on")  # fmt: skip
    return {str(name): int(i) for name, i in found.items()}


class _Checkpoint:
    """One checkpoint while it is read."""

    def __init__(self, config: Mapping[str, Any], ids: dict[str, int], tensors: dict[str, Tensor], length: int) -> None:
        self.config, self.ids, self.length = config, ids, length
        self.bert = any(name.startswith("scbert.") for name in tensors)
        self.trunk = "scbert." if self.bert else "core.encoder."
        self.tensors = tensors
        self.fields = {one["field_name"]: one for one in config["fields"]}
        self.labels = list(config.get("label_columns") or [])
        self.genes = [name for name, _ in sorted(ids.items(), key=lambda one: one[1]) if not name.startswith("[")]
        self.rows = torch.tensor([ids[name] for name in self.genes])
        self.dim = int(config["hidden_size"])
        self._refuse()

    def _refuse(self) -> None:
        """Refuse what would be computed otherwise than the authors' program does."""
        config, encoder = self.config, self.fields["expressions"].get("encoder_kwargs") or {}
        inputs = [name for name, one in self.fields.items() if one.get("is_input", True)]
        odd = {
            "position embeddings": config.get("position_embedding_type") is not None,
            "memory tokens": bool(config.get("num_memory_tokens")),
            "a pooler over the mean": config.get("classifier_pooling", "cls") != "cls",
            "an activation other than gelu": config.get("hidden_act", "gelu") != "gelu",
            "another epsilon of its norms": float(config.get("layer_norm_eps", 1e-12)) != 1e-12,
            "values in bins": self.fields["expressions"].get("tokenization_strategy") != "continuous_value_encoder",
            "an encoder of values without special tokens": encoder.get("kind") == "mlp",
            "sigmoids in the encoder of values": bool(encoder.get("sigmoid_centers")) or bool(encoder.get("shift")),
            "inputs beside genes and expressions": set(inputs) != {"genes", "expressions"},
        }
        found = [what for what, there in odd.items() if there]
        if found:
            raise FormatError(f"the checkpoint has {', '.join(found)}", fix="Such networks are not built here.")
        table = self._take("embeddings.genes_embeddings.weight")
        if table.shape != (len(self.ids), self.dim):
            raise FormatError("the checkpoint's gene table does not fit its vocabulary",
                              expected=f"{len(self.ids)} x {self.dim}", got=" x ".join(map(str, table.shape)))  # fmt: skip

    def _take(self, name: str, *, trunk: bool = True) -> Tensor:
        full = f"{self.trunk}{name}" if trunk else name
        if full not in self.tensors:
            raise FormatError("a weight is missing from the checkpoint", expected=full, fix="Download it again.")
        return self.tensors[full]

    def start(self) -> Start:
        """Return the network and what belongs to it."""
        encoder = dict(self.fields["expressions"].get("encoder_kwargs") or {})
        waves = encoder.get("kind", "mlp_with_special_token_embedding") == "scale_adapt"
        learnt = bool(encoder.get("trainable", True))
        from_label = [one["decode_from"] for one in self.labels if isinstance(one.get("decode_from"), int)]
        depth = "label_expressions" in self.fields
        pooler = f"{self._above}pooler.dense.weight" in self.tensors
        architecture = Architecture(
            dim=self.dim, layers=int(self.config["num_hidden_layers"]), heads=int(self.config["num_attention_heads"]),
            hidden=self._hidden(), style="bert" if self.bert else "llama",
            dropout=float(self.config.get("hidden_dropout_prob", 0.0)) if self.bert else 0.0,
            values=("waves" if learnt else "doubling_waves") if waves else "rectified",
            wave_features=int(encoder.get("n_sin_basis", 48)), zero_vector=bool(encoder.get("zero_as_special_token", True)),
            cells=1 + max(from_label, default=0), ends=1, depth=depth, pooler=pooler,
        )  # fmt: skip
        architecture.check()
        weights = self._embeddings(architecture, waves) | self._blocks(architecture)
        if pooler:
            weights |= {f"pooler.{one}": self.tensors[f"{self._above}pooler.dense.{one}"] for one in ("weight", "bias")}
        heads, objectives = self._heads()
        zeros: dict[str, Any] = {} if self.bert else {"zeros": "batch", "interleave": 0.9, "expressed_only": 0.2}
        tokeniser = Tokeniser(max_length=self.length, read_depth="rda" if depth else None, **zeros)
        if self.labels:
            logger.info("heads of labels are left out: a checkpoint does not name their classes")
        return Start(
            _genes(self.genes), architecture, {f"network.{name}": one for name, one in weights.items()} | heads, objectives,
            tokeniser, self._pooling(pooler, any(one.source == "profile" for one in objectives)),
        )  # fmt: skip

    @property
    def _above(self) -> str:
        """Where the pooler is named."""
        return "scbert." if self.bert else "core."

    def _hidden(self) -> int:
        name = "encoder.layer.0.intermediate.dense.weight" if self.bert else "blocks.0.mlp.c_fc1.weight"
        return int(self._take(name).shape[0])

    def _pooling(self, pooler: bool, decodes: bool) -> str:
        """Return the vector that the authors take: the token that told the type, a pooler that labels trained, or the first."""
        for one in self.labels:
            if "cell_type" in str(one.get("label_column_name")) and isinstance(one.get("decode_from"), int):
                return str(one["decode_from"])
        return "pooler" if self.labels and pooler and not decodes else "cell"

    # Weights ----------------------------------------------------------------------------------------------------------

    def _embeddings(self, architecture: Architecture, waves: bool) -> dict[str, Tensor]:
        """Return gene table, values and cell tokens; a special token is the sum of its two vectors."""
        table = self._take("embeddings.genes_embeddings.weight")
        inside = self._take("embeddings.expressions_embeddings.special_token_embeddings.weight")
        found = {"gene.weight": table[self.rows], "hidden_gene": table[self.ids[_MASK]]}
        # Row 0 stands for a hidden value, row 1 for a zero, which is the last of theirs.
        rows = [self.ids[_MASK], len(inside) - 1] if architecture.zero_vector else [self.ids[_MASK]]
        found["values.table.weight"] = inside[rows]
        start = "embeddings.expressions_embeddings"
        if waves:
            found |= {
                "values.basis": self._take(f"{start}.basis"),
                "values.out.weight": self._take(f"{start}.dense.weight"),
            }
            found |= {"values.centres": torch.empty(0), "values.slopes": torch.empty(0)}
            special = inside
        else:
            for own, theirs in (("first", "dense_1"), ("second", "dense_2")):
                found |= {f"values.{own}.{one}": self._take(f"{start}.{theirs}.{one}") for one in ("weight", "bias")}
            special = F.linear(F.leaky_relu(inside), found["values.second.weight"], found["values.second.bias"])
        names = [_CLS, *(f"[CLS_{i}]" for i in range(architecture.cells - 1)), _SEP]
        found["first"] = torch.stack([table[self.ids[name]] + special[self.ids[name]] for name in names])
        if architecture.depth:
            found["depth"] = torch.stack([table[self.ids[name]] for name in _DEPTH])
        return found | {f"norm.{one}": self._take(f"embeddings.LayerNorm.{one}") for one in ("weight", "bias")}

    def _blocks(self, architecture: Architecture) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for i in range(architecture.layers):
            block = self._bert_block(i) if self.bert else self._llama_block(i)
            found |= {f"encoder.blocks.{i}.{name}": one for name, one in block.items()}
        return found

    def _bert_block(self, i: int) -> dict[str, Tensor]:
        start = f"encoder.layer.{i}"
        found: dict[str, Tensor] = {}
        pairs = {
            "attention.query": "attention.self.query", "attention.out": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm", "layers.0": "intermediate.dense", "layers.2": "output.dense",
            "layers_norm": "output.LayerNorm",
        }  # fmt: skip
        for one in ("weight", "bias"):
            found |= {f"{own}.{one}": self._take(f"{start}.{theirs}.{one}") for own, theirs in pairs.items()}
            both = [self._take(f"{start}.attention.self.{part}.{one}") for part in ("key", "value")]
            found[f"attention.key_value.{one}"] = torch.cat(both)
        return found

    def _llama_block(self, i: int) -> dict[str, Tensor]:
        start = f"blocks.{i}"
        query, rest = self._take(f"{start}.attn.c_attn.weight").split([self.dim, 2 * self.dim])
        pairs = {
            "attention.out": "attn.proj",
            "layers.gate": "mlp.c_fc1",
            "layers.up": "mlp.c_fc2",
            "layers.down": "mlp.c_proj",
        }
        found = {f"{own}.weight": self._take(f"{start}.{theirs}.weight") for own, theirs in pairs.items()}
        found |= {"attention.query.weight": query, "attention.key_value.weight": rest}
        if i:
            found["attention_norm.weight"] = self._take(f"{start}.rms_1.scale")
        return found | {"layers_norm.weight": self._take(f"{start}.rms_2.scale")}

    def _heads(self) -> tuple[dict[str, Tensor], tuple[Objective, ...]]:
        """Return the heads of masked places and of the whole cell, and what they were trained for."""
        start = next((one for one in ("cls.predictions.predictions", "cls.predictions")
                      if f"{one}.transform.dense.weight" in self.tensors), None)  # fmt: skip
        if start is None:
            return {}, ()
        decoders = f"{start}.decoder.field_decoders"
        shared = {
            f"{own}.{one}": self._take(f"{start}.transform.{theirs}.{one}", trunk=False)
            for own, theirs in (("dense", "dense"), ("norm", "LayerNorm")) for one in ("weight", "bias")
        }  # fmt: skip
        found: dict[str, Tensor] = {}
        objectives: tuple[Objective, ...] = ()
        if f"{decoders}.expressions_wced.weight" in self.tensors:
            found |= {f"profile.{name}": one for name, one in (shared | self._whole_cell(decoders)).items()}
            objectives += wced()
        if f"{decoders}.expressions_regression.weight" in self.tensors:
            head, for_what = self._of_places(decoders)
            found |= {f"token.{name}": one for name, one in (shared | head).items()}
            objectives += for_what
        return found, objectives

    def _whole_cell(self, decoders: str) -> dict[str, Tensor]:
        """Return values first and logits of zeros behind them; theirs stand side by side, gene by gene."""
        kinds = list(self.fields["expressions"]["decode_modes"]["wced"]["logit_outputs"])
        found = {}
        for one, absent in (("weight", 0.0), ("bias", -_SURE)):
            theirs = self._take(f"{decoders}.expressions_wced.{one}", trunk=False).unflatten(
                0, (len(self.ids), len(kinds))
            )
            value = theirs[:, kinds.index("mse")][self.rows]
            zero = (
                theirs[:, kinds.index("is_zero_bce")][self.rows]
                if "is_zero_bce" in kinds
                else torch.full_like(value, absent)
            )
            found[f"out.{one}"] = torch.cat([value, zero])
        nothing = torch.zeros(len(self.genes))
        return found | {"mean": nothing, "zero": nothing.clone()}

    def _of_places(self, decoders: str) -> tuple[dict[str, Tensor], tuple[Objective, ...]]:
        objectives = [Objective(source="values", loss="mse")]
        found = {}
        knows, names = f"{decoders}.expressions_is_zero" in self._decoders(decoders), f"{decoders}.genes_token_scores"
        for one in ("weight", "bias"):
            value = self._take(f"{decoders}.expressions_regression.{one}", trunk=False)
            zero = (
                self._take(f"{decoders}.expressions_is_zero.{one}", trunk=False) if knows else torch.zeros_like(value)
            )
            found[f"value.{one}"] = torch.cat([value, zero])
            if f"{names}.{one}" in self.tensors:
                found[f"gene.{one}"] = self.tensors[f"{names}.{one}"][self.rows]
        if knows:
            objectives.append(Objective(source="values", loss="is_zero", weight=1.5))
        if "gene.weight" in found:
            objectives.append(Objective(source="genes", loss="cross_entropy", weight=0.7))
        return found, tuple(objectives)

    def _decoders(self, decoders: str) -> set[str]:
        return {name.rpartition(".")[0] for name in self.tensors if name.startswith(decoders)}


def _genes(names: list[str]) -> GeneVocab:
    try:
        return GeneVocab(names)
    except GeneError:
        return GeneVocab(names, namespace="mixed")
