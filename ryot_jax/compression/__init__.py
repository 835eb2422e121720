"""Parameter transforms that make a pytree of arrays small, and keep it running.

    from ryot_jax.compression import compress, decode, load, save

    found = compress(params, loss_fn, batches, budget="perplexity<=1%")
    save("model.ryot", found.params)
    params, _ = load("model.ryot")              # compressed arrays; decode(params) within a compiled program

Works on any pytree of arrays and any `loss_fn(params, batch)`, independent of this package's model.
"""

from ryot_jax.compression.binary import Binary, binary
from ryot_jax.compression.budget import Budget
from ryot_jax.compression.calibration import Moments, calibrate
from ryot_jax.compression.compress import Compression, compress
from ryot_jax.compression.compressed import Bits, Compressed, decode, memory_bits
from ryot_jax.compression.file import FileError, FileSize, load, save
from ryot_jax.compression.lowrank import LowRank, lowrank
from ryot_jax.compression.nested import Nested, matryoshka, prefix
from ryot_jax.compression.quality import Judge, Quality
from ryot_jax.compression.quantize import balanced, quantize
from ryot_jax.compression.quantized import Quantized
from ryot_jax.compression.sparse import Sparse, prune
from ryot_jax.compression.transforms import Sum, Transform, by_path, chain, identity, leafwise, residual

__all__ = [
    "Binary",
    "Bits",
    "Budget",
    "Compressed",
    "Compression",
    "FileError",
    "FileSize",
    "Judge",
    "LowRank",
    "Moments",
    "Nested",
    "Quality",
    "Quantized",
    "Sparse",
    "Sum",
    "Transform",
    "balanced",
    "binary",
    "by_path",
    "calibrate",
    "chain",
    "compress",
    "decode",
    "identity",
    "leafwise",
    "load",
    "lowrank",
    "matryoshka",
    "memory_bits",
    "prefix",
    "prune",
    "quantize",
    "residual",
    "save",
]
