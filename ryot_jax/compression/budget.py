"""Budgets for a compressed tree: a number of bytes, or a rise of the loss."""

import dataclasses
import math
import re
from typing import Literal

_SYNTAX = "ratio>=8, bytes<=500000, loss<=0.01 (nats) or perplexity<=1%"


@dataclasses.dataclass(frozen=True)
class Budget:
    """A limit to keep, with as much as possible of the other.

    Attributes:
      kind: 'bytes': the file is at most `limit` bytes; 'ratio': at most 1 / `limit` of the arrays in float32;
        'loss': the mean loss rises by at most `limit` (upper end of the 95 % interval, with room for a second sample).
      limit: positive and finite.
      text: as the user wrote it.
    """

    kind: Literal["bytes", "ratio", "loss"]
    limit: float
    text: str

    def bytes_of(self, n_parameters: int) -> float | None:
        """The most bytes of the file; None where the loss is limited."""
        if self.kind == "loss":
            return None
        return self.limit if self.kind == "bytes" else 4 * n_parameters / self.limit

    def kept(self, n_bytes: int, n_parameters: int, loss_rise: float | None) -> bool:
        """Whether a file keeps the budget, given its bytes and its rise of the loss (None if unknown)."""
        most = self.bytes_of(n_parameters)
        if most is None:
            return loss_rise is not None and loss_rise <= self.limit
        return n_bytes <= most


def parse(text: str) -> Budget:
    """Parses 'ratio>=8', 'bytes<=500000', 'loss<=0.01' or 'perplexity<=1%'.

    A perplexity that rises by p is a loss that rises by ln(1 + p).

    Raises:
      ValueError: the text is malformed, or the number is out of range.
    """
    match = re.fullmatch(r"\s*(ratio|bytes|loss|perplexity)\s*(<=|>=)\s*([0-9.eE+-]+)\s*(%?)\s*", text)
    if match is None:
        raise ValueError(f"budget {text!r} cannot be read; write one of {_SYNTAX}")
    kind, sign, number, percent = match.groups()
    if (sign == ">=") != (kind == "ratio") or (percent == "%") != (kind == "perplexity"):
        raise ValueError(f"budget {text!r}: write one of {_SYNTAX}")
    try:
        limit = float(number)
    except ValueError:
        raise ValueError(f"budget {text!r}: {number!r} is no number") from None
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"budget {text!r}: the limit must be finite and above zero")
    if kind == "perplexity":
        return Budget("loss", math.log1p(limit / 100), text.strip())
    return Budget(kind, limit, text.strip())  # type: ignore[arg-type]
