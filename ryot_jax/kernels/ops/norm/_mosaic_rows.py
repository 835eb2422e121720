"""The division of a row among the warps of Mosaic's norm kernel. Imports no Pallas."""

LANES = 32  # lanes of a warp
RUN = 4  # neighbouring columns that a lane takes: 16 bytes of float32
# Warps per row, and the most columns for it: the first entry that divides them (128 per warp) is taken. Two numbers per
# column stay in registers, at best for 32 columns per lane and at worst for 64.
_WARPS_PER_ROW = (1, 1024), (2, 2048), (4, 8192), (2, 4096), (1, 2048)


def refusal(d: int) -> str | None:
    """The reason why the kernel cannot take rows of `d` numbers; None: it can."""
    if warps_per_row(d) is None:
        return f"need D, a multiple of 128 up to 2048, of 256 up to 4096, of 512 up to 8192; got D={d}"
    return None


def warps_per_row(d: int) -> int | None:
    """The number of warps that share a row of `d` numbers; None: the kernel cannot take such rows."""
    return next((warps for warps, most in _WARPS_PER_ROW if 0 < d <= most and d % (warps * LANES * RUN) == 0), None)
