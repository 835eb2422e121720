"""Parameter transforms: from a pytree of arrays to one in which some of them are compressed, and how they compose.

A transform is fitted once (`init`), applied (`apply`), and can be felt in training before it is applied (`fake`).
The quantizers, factorizations and codes are in modules of their own.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.compression.calibration import Moments, Stats
from ryot_jax.compression.compressed import (
    Bits,
    Compressed,
    PyTree,
    decode,
    float_leaves,
    is_compressed,
    map_named,
    named_leaves,
    path_name,
    register,
)

State = Any


@dataclasses.dataclass(frozen=True)
class Transform:
    """Compression as a function of parameters.

    Attributes:
      init: `(params, stats or None) -> state`: what is fitted to the parameters; a pytree.
      apply: `(params, state) -> params`, with compressed arrays in the place of some.
      traceable: as `apply`, for use within a compiled program, where a transform that works on the host takes the
        nearest code instead of the one that makes up for others' errors. Default: `apply` itself.
    """

    init: Callable[[PyTree, Stats | None], State]
    apply: Callable[[PyTree, State], PyTree]
    traceable: Callable[[PyTree, State], PyTree] | None = None

    def __call__(self, params: PyTree, stats: Stats | None = None) -> PyTree:
        """Fits the transform to the parameters and applies it."""
        return self.apply(params, self.init(params, stats))

    @property
    def within_program(self) -> Callable[[PyTree, State], PyTree]:
        """`traceable`, or `apply` where that is traceable itself."""
        return self.traceable or self.apply

    def fake(self, params: PyTree, state: State, strength: Any = 1.0) -> PyTree:
        """The parameters moved towards their compressed values, with the gradient of the identity.

        The straight-through estimator (arXiv:1308.3432): w + strength * (decode(apply(w)) - w), of which only w is
        differentiated. `strength` from 0 (w itself) to 1 may be traced.
        """
        compressed = decode(self.within_program(jax.lax.stop_gradient(params), state))

        def moved(w: Any, c: Any) -> Any:
            if not jnp.issubdtype(jnp.result_type(w), jnp.floating):
                return w
            return (w + strength * (c.astype(w.dtype) - jax.lax.stop_gradient(w))).astype(w.dtype)

        return jax.tree.map(moved, params, jax.lax.stop_gradient(compressed))


# What one array becomes: (array, moments or None) -> state, None to leave it as it is; (array, state) -> compressed.
Fit = Callable[[jax.Array, Moments | None], State]
Compress = Callable[[jax.Array, State], Any]


def leafwise(fit: Fit, compress: Compress, traceable: Compress | None = None) -> Transform:
    """A transform of each floating-point array by itself, those within compressed arrays included."""

    def init(params: PyTree, stats: Stats | None) -> State:
        moments = stats or {}
        fitted = {name: fit(leaf, moments.get(name)) for name, leaf in float_leaves(params).items()}
        return {name: state for name, state in fitted.items() if state is not None}

    def applied(compress: Compress) -> Callable[[PyTree, State], PyTree]:
        def apply(params: PyTree, state: State) -> PyTree:
            def of_leaf(path: Any, leaf: Any) -> Any:
                name = path_name(path)
                return compress(leaf, state[name]) if name in state else leaf

            return jax.tree_util.tree_map_with_path(of_leaf, params)

        return apply

    return Transform(init, applied(compress), None if traceable is None else applied(traceable))


def identity() -> Transform:
    """Leaves everything as it is."""
    return Transform(lambda params, stats: {}, lambda params, state: params)


def chain(*transforms: Transform) -> Transform:
    """One transform after the other; each works on the floating-point arrays that those before have left.

    `chain(lowrank(16), quantize(8))` quantizes the factors of the factorization.
    """

    def init(params: PyTree, stats: Stats | None) -> State:
        states = []
        for transform in transforms:
            states.append(transform.init(params, stats))
            params = transform.apply(params, states[-1])
        return tuple(states)

    def applied(traceable: bool) -> Callable[[PyTree, State], PyTree]:
        def apply(params: PyTree, states: State) -> PyTree:
            for transform, state in zip(transforms, states, strict=True):
                params = (transform.within_program if traceable else transform.apply)(params, state)
            return params

        return apply

    return Transform(init, applied(False), applied(True))


def by_path(transforms: Mapping[str, Transform]) -> Transform:
    """Another transform for each array, by its dotted path: the first whose regular expression is found in it.

    Arrays that none matches are left as they are. Raises ValueError where an expression matches nothing: a misspelt
    one would leave its arrays as they are without a word.
    """

    def parts(params: PyTree) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{} for _ in transforms]
        for name, leaf in named_leaves(params).items():
            matching = [i for i, pattern in enumerate(transforms) if re.search(pattern, name)]
            if matching:
                found[matching[0]][name] = leaf
        return found

    def init(params: PyTree, stats: Stats | None) -> State:
        found = parts(params)
        for pattern, part in zip(transforms, found, strict=True):
            if not part:
                raise ValueError(
                    f"by_path: no parameter is left for {pattern!r}; there are {', '.join(named_leaves(params))}"
                )
        return tuple(t.init(part, stats) for t, part in zip(transforms.values(), found, strict=True))

    def applied(traceable: bool) -> Callable[[PyTree, State], PyTree]:
        def apply(params: PyTree, states: State) -> PyTree:
            done: dict[str, Any] = {}
            for transform, part, state in zip(transforms.values(), parts(params), states, strict=True):
                function = transform.within_program if traceable else transform.apply
                done |= function(part, state)
            return map_named(lambda name, leaf: done.get(name, leaf), params)

        return apply

    return Transform(init, applied(False), applied(True))


@register
@dataclasses.dataclass(frozen=True)
class Sum(Compressed):
    """The sum of a compressed array and a correction of its error."""

    base: Compressed
    correction: Compressed

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base, which is that of the correction too."""
        return self.base.shape

    def decode(self, dtype: Any = jnp.float32) -> jax.Array:
        """The sum of base and correction, taken in float32."""
        return (self.base.decode() + self.correction.decode()).astype(dtype)

    def take(self, ids: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        """Rows `ids` of base and correction, added."""
        return (self.base.take(ids) + self.correction.take(ids)).astype(dtype)

    def bits(self) -> Bits:
        """Bits of base and correction."""
        base, correction = self.base.bits(), self.correction.bits()
        return Bits(base.payload + correction.payload, base.side + correction.side)


def residual(base: Transform, correction: Transform) -> Transform:
    """`base`, and what it gets wrong compressed by `correction`.

    Arrays that either leaves as they are have no correction: `residual(quantize(3), by_path({'mlp': lowrank(4)}))`.
    """

    def errors(params: PyTree, compressed: PyTree) -> dict[str, jax.Array]:
        # Array by array, also where they are within something compressed before.
        return float_leaves(jax.tree.map(lambda w, c: w - c.decode() if is_compressed(c) else None, params, compressed))

    def init(params: PyTree, stats: Stats | None) -> State:
        state = base.init(params, stats)
        return state, correction.init(errors(params, base.apply(params, state)), stats)

    def applied(traceable: bool) -> Callable[[PyTree, State], PyTree]:
        of_base, of_correction = (t.within_program if traceable else t.apply for t in (base, correction))

        def apply(params: PyTree, states: State) -> PyTree:
            compressed = of_base(params, states[0])
            corrections = of_correction(errors(params, compressed), states[1])

            def corrected(path: Any, _: Any, leaf: Any) -> Any:
                correction = corrections.get(path_name(path))
                return Sum(leaf, correction) if is_compressed(correction) else leaf

            return jax.tree_util.tree_map_with_path(corrected, params, compressed)

        return apply

    return Transform(init, applied(False), applied(True))
