"""The effect of compression on a model's predictions of held-out text: loss, perplexity, divergence, agreement."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from ryot_jax.compression.compressed import PyTree, decode

# (params, batch) -> logits [B, T, V]
LogitsFn = Callable[[PyTree, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % Student t interval; None: of one value there is none."""

    estimate: float
    ci95: tuple[float, float] | None

    @classmethod
    def of(cls, values: np.ndarray) -> "Estimate":
        """The estimate from independent values, at least one."""
        mean = float(values.mean())
        if len(values) < 2:
            return cls(mean, None)
        half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
        return cls(mean, (mean - half, mean + half))

    def map(self, function: Callable[[float], float]) -> "Estimate":
        """The estimate with mean and interval mapped by an increasing function."""
        ci95 = None if self.ci95 is None else (function(self.ci95[0]), function(self.ci95[1]))
        return Estimate(function(self.estimate), ci95)


@dataclasses.dataclass(frozen=True)
class Quality:
    """A compressed model beside the one that it was made of, on the same sequences.

    Attributes:
      sequences: number of them, the unit of all intervals.
      float_loss: mean cross-entropy of the original in nats per token.
      loss: of the compressed one.
      loss_change: difference, paired over sequences.
      perplexity_change: exp of it, less one.
      kl: divergence of the compressed from the original's predictions, KL(original || compressed), nats per token.
      agreement: share of the tokens at which both find the same one the likeliest.
    """

    sequences: int
    float_loss: float
    loss: float
    loss_change: Estimate
    perplexity_change: Estimate
    kl: Estimate
    agreement: Estimate


class Judge:
    """Judges compressed trees against one original on a fixed set of sequences.

    Args:
      logits_fn: `(params, batch) -> logits [B, T, V]`, pure.
      params: the original.
      batches: mappings with 'targets', int[B, T]; those below zero do not count.
    """

    def __init__(self, logits_fn: LogitsFn, params: PyTree, batches: Sequence[Mapping[str, Any]]):
        self._params, self._batches = params, batches

        def compare(params: PyTree, compressed: PyTree, batch: Mapping[str, jax.Array]) -> Any:
            before = jax.nn.log_softmax(logits_fn(params, batch).astype(jnp.float32))
            after = jax.nn.log_softmax(logits_fn(decode(compressed), batch).astype(jnp.float32))
            counted = batch["targets"] >= 0
            n = jnp.sum(counted, axis=1)
            of_target = jnp.maximum(batch["targets"], 0)[..., None]
            values = {
                "before": -jnp.take_along_axis(before, of_target, axis=-1)[..., 0],
                "after": -jnp.take_along_axis(after, of_target, axis=-1)[..., 0],
                "kl": jnp.sum(jnp.exp(before) * (before - after), axis=-1),
                "agreement": (jnp.argmax(before, -1) == jnp.argmax(after, -1)).astype(jnp.float32),
            }
            return {name: jnp.sum(jnp.where(counted, x, 0.0), axis=1) for name, x in values.items()} | {"n": n}

        self._compare = jax.jit(compare)

    def __call__(self, compressed: PyTree) -> Quality:
        """Judges one tree."""
        found = jax.device_get([self._compare(self._params, compressed, batch) for batch in self._batches])
        sums = {name: np.concatenate([part[name] for part in found]).astype(np.float64) for name in found[0]}
        real = sums["n"] > 0
        means = {name: values[real] / sums["n"][real] for name, values in sums.items() if name != "n"}
        tokens = sums["n"][real].sum()
        change = Estimate.of(means["after"] - means["before"])
        return Quality(
            sequences=int(real.sum()),
            float_loss=float(sums["before"][real].sum() / tokens),
            loss=float(sums["after"][real].sum() / tokens),
            loss_change=change,
            perplexity_change=change.map(math.expm1),
            kl=Estimate.of(means["kl"]),
            agreement=Estimate.of(means["agreement"]),
        )
