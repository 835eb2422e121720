"""The cost of a model in closed form: parameters, floating-point operations and memory.

Nothing is compiled or allocated; the memory of a compiled program is measured where it is compiled.
"""

import math

import jax

from ryot_jax.model.config import ModelConfig
from ryot_jax.model.functional import Params

_F32 = 4
_PARTS = ("embedding", "positions", "attention", "mlp", "norms", "head")


def parameters_by_part(params: Params) -> dict[str, int]:
    """Number of weights of each part, counted in the arrays; the values add up to all weights.

    Parts are 'embedding', 'positions', 'attention', 'mlp', 'norms' and 'head', less those that the model lacks.
    """
    counts = dict.fromkeys(_PARTS, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path]
        part = "norms" if any(name.endswith("norm") for name in names) else next(n for n in names if n in counts)
        counts[part] += math.prod(leaf.shape)
    return {part: count for part, count in counts.items() if count}


def parameter_count(cfg: ModelConfig) -> int:
    """Number of weights of a model, without making it."""
    V, D, L, F = cfg.vocab_size, cfg.d_model, cfg.n_layers, cfg.d_ff
    matrices = L * _layer_matrices(cfg)
    tables = V * D * (1 if cfg.tie_embeddings else 2) + (cfg.max_len * D if cfg.positions == "learned" else 0)
    norm_scales = (2 * L + 1) * D
    biases = 0
    if cfg.use_bias:
        up = 2 * F if cfg.mlp == "swiglu" else F
        biases = norm_scales + L * (3 * D + D + up + D)
    return matrices + tables + norm_scales + biases


def flops_per_step(cfg: ModelConfig, batch_size: int, seq_len: int) -> int:
    """Floating-point operations of one training step on `batch_size` sequences of `seq_len` tokens.

    Convention: matrix products only, a multiply-add is two operations, backward is twice forward, causal attention is
    counted in full (T x T, as PaLM's appendix B, arXiv:2204.02311, does). Recomputation by `remat` is not counted
    (model FLOPs, not hardware FLOPs), nor are norms, softmax and the optimizer.
    """
    D, L = cfg.d_model, cfg.n_layers
    projections = L * _layer_matrices(cfg) + D * cfg.vocab_size
    attention = L * 2 * seq_len * D
    forward_per_token = 2 * (projections + attention)
    return 3 * forward_per_token * batch_size * seq_len


def least_flops_per_step(cfg: ModelConfig, batch_size: int, seq_len: int) -> int:
    """Lower bound of the operations of an exact step: `flops_per_step` without the scores that the causal mask removes.

    A query sees (T + 1) / 2 keys on average, not T. Bounds on the time of a step need this number and not the
    convention, by which a kernel that skips the masked half would seem to do up to twice its work.
    """
    masked_pairs = batch_size * (seq_len * (seq_len - 1) // 2)
    # Two products forward (scores, weighted values), a multiply-add each for every feature, and backward twice that.
    return flops_per_step(cfg, batch_size, seq_len) - 3 * 2 * 2 * cfg.n_layers * cfg.d_model * masked_pairs


def least_state_bytes_per_step(
    cfg: ModelConfig,
    batch_size: int,
    seq_len: int,
    *,
    optimizer_bytes: int | None = None,
    clipped: bool = True,
) -> int:
    """Bytes of the training state that a step must read from memory and write to it, if no cache keeps any of it.

        2 (4 P + optimizer_bytes + 4 G)

    P weights and the optimizer's state are read once and written once. So are G elements of gradients, where they are
    clipped by their global norm: the last must be known before the first is used. Without clipping each can be used up
    where it is made, and G is 0. Of P, G lacks the rows of tables that no token of the batch can touch: positions
    beyond T and, in a table that is not tied, all but B T rows.

    A lower bound: an implementation that reads weights once more for its backward pass moves more. Activations are
    not in it, as a batch can be taken in pieces whose activations stay in a cache, at the same number of operations.

    Args:
      cfg: the model.
      batch_size: sequences of the step, B.
      seq_len: tokens of a sequence, T.
      optimizer_bytes: size of the optimizer's state; None: two float32 moments a weight (AdamW).
      clipped: whether gradients are clipped by their global norm.
    """
    weights = parameter_count(cfg)
    optimizer_bytes = 2 * _F32 * weights if optimizer_bytes is None else optimizer_bytes
    gradients = weights - _untouched_weights(cfg, batch_size, seq_len) if clipped else 0
    return 2 * (_F32 * weights + optimizer_bytes + _F32 * gradients)


def batch_bytes(batch_size: int, seq_len: int) -> int:
    """Bytes of a step's inputs and targets, int32 token ids."""
    return 2 * 4 * batch_size * seq_len


def memory_by_part(cfg: ModelConfig, batch_size: int, seq_len: int) -> dict[str, int]:
    """Estimated bytes of a training step with an optimizer of two float32 moments (AdamW), by part.

    'activations' is what backward keeps of the blocks with reference kernels, 'logits' the product with the
    vocabulary, its softmax and its gradient. An estimate, to choose a batch size by: compilers fuse and reuse buffers.
    """
    D, L, F, H = cfg.d_model, cfg.n_layers, cfg.d_ff, cfg.n_heads
    rows, width = batch_size * seq_len, cfg.dtype.itemsize
    n_parameters = parameter_count(cfg)
    # Of width D: residual sums, norms, qkv, heads in their own layout, products. Of width F: hidden layers before
    # and after the activation, and its derivative. T x T: scores in float32 and their softmax.
    per_row = 14 * D + (5 if cfg.mlp == "swiglu" else 3) * F
    layer = rows * (per_row * width + H * seq_len * (_F32 + width))
    kept_layers = layer + (L - 1) * rows * D * width if cfg.remat else L * layer
    return {
        "parameters": n_parameters * _F32,
        "gradients": n_parameters * _F32,
        "optimizer": 2 * n_parameters * _F32,
        "activations": kept_layers,
        "logits": 3 * rows * cfg.vocab_size * _F32,
    }


def memory_bytes(cfg: ModelConfig, batch_size: int, seq_len: int) -> int:
    """Estimated bytes of a training step: the sum of `memory_by_part`."""
    return sum(memory_by_part(cfg, batch_size, seq_len).values())


def _layer_matrices(cfg: ModelConfig) -> int:
    """Elements of one block's matrices: qkv and output, then up (and gate) and down."""
    return 4 * cfg.d_model**2 + (3 if cfg.mlp == "swiglu" else 2) * cfg.d_model * cfg.d_ff


def _untouched_weights(cfg: ModelConfig, batch_size: int, seq_len: int) -> int:
    """Elements of tables whose gradients are zero whatever the tokens of a batch are."""
    rows = 0 if cfg.tie_embeddings else max(cfg.vocab_size - batch_size * seq_len, 0)
    if cfg.positions == "learned":
        rows += cfg.max_len - seq_len
    return rows * cfg.d_model
