"""Flash attention for Hopper in Pallas Mosaic: no window, no padding mask."""

import jax

from ryot_jax.kernels.declaration import Implementation, Spec, Wishes
from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.ops.attention._mosaic_blocks import BLOCKS
from ryot_jax.kernels.ops.attention._visible import Functions, Visible
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import mosaic_products_refusal


# The kernels are imported on the first call: importing Pallas takes a second, which runs without a GPU should not pay.
def _mosaic(
    visible: Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    _require_no_mask(visible, mask_BS)
    from ryot_jax.kernels.ops.attention._mosaic_attention import flash_attention

    return flash_attention(q_BTHK, k_BSGK, v_BSGK, causal=visible.causal)


def _mosaic_packed(visible: Visible, n_heads: int, qkv_BTNK: jax.Array, mask_BT: jax.Array | None) -> jax.Array:
    _require_no_mask(visible, mask_BT)
    from ryot_jax.kernels.ops.attention._mosaic_attention import packed_flash_attention

    return packed_flash_attention(qkv_BTNK, n_heads, causal=visible.causal)


def _require_no_mask(visible: Visible, mask_BS: jax.Array | None) -> None:
    if visible.window is not None or mask_BS is not None:
        raise NotImplementedError("implementation='mosaic' takes no window and no padding mask; use 'cudnn' or 'xla'")


def _refusal(spec: Spec) -> str | None:
    if (width := spec.d_model // spec.n_heads) not in BLOCKS:
        return f"mosaic's attention takes heads of {' or '.join(map(str, BLOCKS))}, not of {width}"
    return mosaic_products_refusal(spec)


def _drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    version = pallas.cuda_version()
    if version is not None and 12_080 <= version < 12_091:  # like jax's own flash attention example
        return f"ptxas of CUDA 12.8 and 12.9.0 gets causal masks wrong, and this is CUDA {version}, or a later 12.9"
    return None


IMPLEMENTATION = Implementation(
    function=Functions(_mosaic, _mosaic_packed),
    equivalence="allclose",
    probe=custom_call("ryot_attention"),
    refusal=_refusal,
    drawback=_drawback,
    where="Hopper",
)
