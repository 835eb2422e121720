"""Block sizes of Mosaic's attention by the width of a head. Imports no Pallas."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of the tiles that the kernels keep in shared memory.

    Attributes:
      keys: keys per step of the forward kernel; 64, 128 or 256.
      stages: number of such tiles held at once.
      dq_keys: keys per step of the kernel for the gradient of queries.
      dq_stages: its number of tiles.
      dkv_queries: queries per step of the kernel for the gradients of keys and values.
      dkv_stages: its number of tiles.
    """

    keys: int = 128
    stages: int = 2
    dq_keys: int = 128
    dq_stages: int = 2
    dkv_queries: int = 64
    dkv_stages: int = 2

    def __post_init__(self) -> None:
        if {self.keys, self.dq_keys, self.dkv_queries} - {64, 128, 256}:  # wgmma's columns, aligned with a tile
            raise ValueError(f"need blocks of 64, 128 or 256 keys or queries; got {self}")


# Sizes by the width of a head.
BLOCKS = {64: Blocks(stages=4, dq_stages=4, dkv_queries=128, dkv_stages=3), 128: Blocks(dkv_stages=4)}
