"""Which implementation computes a site: by the op's own declarations, and for the sizes at hand."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from ryot_jax.kernels.catalogue import op
from ryot_jax.kernels.declaration import Spec
from ryot_jax.kernels.resolution import Choice, resolve
from ryot_jax.rewriting.sites import Refused, Site
from ryot_jax.runtime.errors import ConfigError

PRECISIONS = ("", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Chooser:
    """Chooses implementations.

    Attributes:
      platform: the platform that the function will run on.
      precision: dtype that operands are rounded to; '': their own.
      implementations: op -> the name of an implementation, or 'auto'; ops not named: 'auto'.
      keys: keys of the sites that may be taken, see `Site.keys`; None: all.
    """

    platform: str
    precision: str
    implementations: Mapping[str, str]
    keys: frozenset[str] | None = None

    def choice(self, site: Site) -> Choice:
        """The implementation for a site, and the reason.

        Raises:
          ConfigError: the named implementation cannot take it.
        """
        return _resolved(site.op, self.implementations.get(site.op, "auto"), self._spec(site), bool(self.precision))

    def implementation(self, site: Site) -> str:
        """The name of the implementation for a site."""
        return self.choice(site).implementation

    def wanted(self, site: Site) -> Site | Refused:
        """The site, or the reason why no implementation is worth taking."""
        if self.keys is not None and not self.keys.issuperset(site.keys):
            return Refused(site.op, site.root, "not asked for")
        wide = [operand for operand in site.operands if operand.value.dtype in ("float64", "complex64")]
        if wide or site.root.dtype not in ("float32", "bfloat16", "float16"):
            return Refused(site.op, site.root, f"it computes in {(wide[0].value if wide else site.root).dtype}")
        try:
            found = self.choice(site)
        except ConfigError as error:
            return Refused(site.op, site.root, str(error))
        if found.implementation == _reference(site.op):
            return Refused(site.op, site.root, found.reason)
        obstacle = self._obstacle(site, found.implementation)
        return site if obstacle is None else Refused(site.op, site.root, obstacle)

    def _obstacle(self, site: Site, implementation: str) -> str | None:
        """The reason why an implementation cannot take the dtypes of a site, or None."""
        named = zip(site.names, site.operands, strict=True)
        dtypes = {jnp.dtype(self._dtype_of(site, name, operand.value.dtype)) for name, operand in named}
        floats = {dtype for dtype in (*dtypes, jnp.dtype(site.root.dtype)) if jnp.issubdtype(dtype, jnp.floating)}
        try:
            op(site.op).implementations[implementation].require(frozenset(floats))
        except (TypeError, NotImplementedError) as error:
            return str(error)
        return None

    def run(self, site: Site, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """Computes a site: its root, and the operand x where it passes that on."""
        cast = [x.astype(self._dtype_of(site, name, x.dtype)) for name, x in zip(site.names, arrays, strict=True)]
        outcome = site.call(self.choice(site).implementation, *cast)
        y, *passed = outcome if site.passes else (outcome,)
        return y.astype(site.root.dtype), *passed

    def _dtype_of(self, site: Site, name: str, dtype: jax.typing.DTypeLike) -> jax.typing.DTypeLike:
        """The dtype in which an operand is passed to the op."""
        if not jnp.issubdtype(dtype, jnp.floating):
            return dtype
        if name in site.exact:  # the sum with a residual has the residual's dtype
            return site.root.dtype if name == "residual" else dtype
        return self._dtype(site)

    def _dtype(self, site: Site) -> str:
        return self.precision or site.dtype

    def _spec(self, site: Site) -> Spec:
        """The sizes of a site as those of a training step."""
        x = site.operands[0].shape
        width = max(x[-1], 1)
        other = site.operands[1].shape if len(site.operands) > 1 else x
        return Spec(
            platform=self.platform,
            n_devices=1,
            compute_dtype=self._dtype(site),
            rows=max(math.prod(x[:-1]), 1),
            d_model=width,
            d_ff=max(math.prod(other) // width, 1),
            vocab_size=max(other[0], 1),
            seq_len=x[-2] if len(x) > 1 else 1,
            n_heads=1,
            compute_capability=str(getattr(jax.devices()[0], "compute_capability", "")),
        )


@functools.cache
def _reference(name: str) -> str:
    return op(name).reference


@functools.lru_cache(maxsize=4096)
def _resolved(name: str, wish: str, spec: Spec, rounds: bool) -> Choice:
    declared = op(name)
    found = resolve((declared,), {name: wish}, spec=spec)[name]
    if wish == "auto" and not rounds and declared.promise({name: found.implementation}) == "statistical":
        return Choice(
            declared.reference, f"{found.implementation} rounds operands, for which precision has to be given"
        )
    return found
