"""Step schedules in a line of text, by shares of a training's tokens and parts of its batch size and length.

    31% of B x T/4, 12.5% of B/2 x T/2, 12.5% of B x T

Such a line applies to a config of any size, which numbers of steps would not.
"""

import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.scaling.schedule import StepSchedule, compose
from ryot_jax.scaling.series import per_phase

_NUMBER = r"\d+(?:\.\d+)?"
_PHASE = re.compile(
    rf"(?P<percent>{_NUMBER})% of (?P<batch>B(?:[/*]\d+)?) x (?P<length>T(?:/\d+)?)"
    rf"(?: depth L(?P<depth>/\d+)?)?(?: rate (?P<rate>{_NUMBER}))?"
)
_GRAMMAR = "phases such as '50% of B/2 x T/4 depth L/2 rate 0.5', with commas between; B is the config's batch size"


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase of a training, in shares of the whole.

    Attributes:
      share: share of the training's tokens; the shares of all phases may add up to more or less than 1.
      batch: share of the batch size.
      length: share of the sequence length.
      depth: share of the layers.
      rate: multiplier of the learning rate.
    """

    share: Fraction
    batch: Fraction = Fraction(1)
    length: Fraction = Fraction(1)
    depth: Fraction = Fraction(1)
    rate: float = 1.0


def parse(text: str) -> tuple[Phase, ...]:
    """Parses a line of phases.

    Raises:
      ConfigError: the line is malformed; the message names the phase.
    """
    phases = []
    for words in text.split(","):
        found = _PHASE.fullmatch(" ".join(words.split()))
        if found is None:
            raise ConfigError(f"{words.strip()!r} is no phase; give {_GRAMMAR}, T its length, L the model's layers")
        phase = Phase(
            Fraction(found["percent"]) / 100,
            _part(found["batch"][1:]),
            _part(found["length"][1:]),
            _part(found["depth"] or ""),
            float(found["rate"] or 1.0),
        )
        if not all((phase.share, phase.batch, phase.length, phase.depth, phase.rate)):
            raise ConfigError(f"{words.strip()!r}: share, batch size, length, depth and rate must be above zero")
        phases.append(phase)
    return tuple(phases)


def laid_out(
    phases: Sequence[Phase], *, batch_size: int, seq_len: int, n_layers: int, steps: int, multiple_of: int = 1
) -> StepSchedule:
    """Lays phases out as the step schedule of a training.

    Without phases the training would take `steps` steps of `batch_size` sequences of `seq_len` tokens.

    Parts of sizes are rounded down, to at least 1; the steps of a phase to a multiple of `multiple_of`, at least one.
    All layers are written as depth 0, so that the program is that of a schedule without depth.
    """
    tokens, sizes = steps * batch_size * seq_len, []
    for phase in phases:
        batch, length, layers = (
            max(1, int(part * whole))
            for part, whole in ((phase.batch, batch_size), (phase.length, seq_len), (phase.depth, n_layers))
        )
        calls = max(1, round(phase.share * tokens / (batch * length * multiple_of)))
        sizes.append((calls * multiple_of, batch, length, 0 if layers == n_layers else layers, phase.rate))
    return compose(
        batch_size=per_phase([(n, batch) for n, batch, _, _, _ in sizes]),
        seq_len=per_phase([(n, length) for n, _, length, _, _ in sizes]),
        depth=per_phase([(n, layers) for n, _, _, layers, _ in sizes]),
        rate=per_phase([(n, rate) for n, _, _, _, rate in sizes]),
    )


def _part(words: str) -> Fraction:
    """'' is the whole, '/2' a half, '*2' twice as much; a part of nothing is zero."""
    if not words:
        return Fraction(1)
    number = int(words[1:])
    if words[0] == "*":
        return Fraction(number)
    return Fraction(1, number) if number else Fraction(0)
