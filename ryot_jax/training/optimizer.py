"""Optimizers and learning-rate schedules by name, built from optax.

Parameters are distinguished by rank and name: matrices are `kernel` or embeddings, vectors are `bias` or `scale`
(also if a scan over layers has stacked them).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from optax.contrib import ScheduleFreeState

from ryot_jax.kernels import adamw
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.field_rules import broken, out_of_range
from ryot_jax.training.muon import muon
from ryot_jax.training.rules import LEARNING_RATE_SCHEDULES, OPTIMIZERS, RANGES, wrong_schedule_free, wrong_warmup
from ryot_jax.training.state import State

_VECTORS = ("bias", "scale")


def learning_rate_schedule(training: Mapping[str, Any], total_steps: int) -> optax.Schedule:
    """Learning rate of step 0, 1, ...: linear warm-up to `learning_rate`, then decay to zero, or none.

    The first step is taken with 1/warmup_steps of the peak and the last with a rate above zero, so that none is
    wasted; the rate is exactly zero at `total_steps`.

    Args:
      training: `schedule` ('cosine', 'linear' or 'constant'), `learning_rate`, `warmup_steps`.
      total_steps: number of steps of the whole run.

    Raises:
      ConfigError: the warm-up does not fit into the run, or the learning-rate schedule is unknown.
    """
    peak, warmup = float(training["learning_rate"]), int(training["warmup_steps"])
    given = {"training.warmup_steps": warmup}
    _refuse(
        [*out_of_range(given, {"training.warmup_steps": RANGES["warmup_steps"]}), *wrong_warmup(training, total_steps)]
    )
    decay_steps = total_steps + 1 - warmup
    match training["schedule"]:
        case "cosine":
            decay = optax.cosine_decay_schedule(peak, decay_steps)
        case "linear":
            decay = optax.linear_schedule(peak, 0.0, decay_steps)
        case "constant":
            decay = optax.constant_schedule(peak)
        case other:
            names = ", ".join(LEARNING_RATE_SCHEDULES)
            raise ConfigError(broken("training.schedule", other, f"must be one of {names}"))
    if warmup > 0:
        decay = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])
    return lambda step: decay(step + 1)


def make_optimizer(
    training: Mapping[str, Any], total_steps: int, rate: optax.Schedule | None = None
) -> optax.GradientTransformation:
    """The optimizer of the mean gradient: clip by global norm, then `training.optimizer`.

    Weight decay acts on matrices only, and is multiplied by the learning rate.

    * adamw: Loshchilov & Hutter, arXiv:1711.05101.
    * muon: Jordan 2024, for `kernel`s; embeddings and vectors get AdamW without decay. `b1` and `b2` are
      AdamW's, Muon's momentum is 0.95.
    * lion: Chen et al., arXiv:2302.06675; needs a learning rate 3 to 10 times smaller than adamw.
    * schedule_free: AdamW of Defazio et al., arXiv:2405.15682; replaces the decay of the learning rate.

    Args:
      training: `optimizer`, `b1`, `b2`, `weight_decay`, `clip_norm` (0: none), and those of the learning-rate schedule.
      total_steps: number of steps of the whole run.
      rate: the learning rate of each step; None: `learning_rate_schedule`.

    Raises:
      ConfigError: a name is unknown, or two fields contradict each other.
    """
    rate = learning_rate_schedule(training, total_steps) if rate is None else rate
    b1, b2, decay = (float(training[field]) for field in ("b1", "b2", "weight_decay"))
    match training["optimizer"]:
        case "adamw":
            optimizer = optax.adamw(rate, b1=b1, b2=b2, weight_decay=decay, mask=matrices)
        case "muon":
            optimizer = muon(rate, is_matrix=_kernels, weight_decay=decay, adam_b1=b1, adam_b2=b2)
        case "lion":
            optimizer = optax.lion(rate, b1=b1, b2=b2, weight_decay=decay, mask=matrices)
        case "schedule_free":
            optimizer = _schedule_free(training, rate, b1, b2, decay)
        case other:
            raise ConfigError(broken("training.optimizer", other, f"must be one of {', '.join(OPTIMIZERS)}"))
    clip_norm = float(training["clip_norm"])
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity()
    return optax.chain(clip, optimizer)


class DirectOptimizer(NamedTuple):
    """An optax transformation that can also compute new parameters from gradients directly, without updates.

    `apply(grads, gradient_scale, opt_state, params) -> (params, opt_state, grad_norm)` does what scaling the
    gradients, `update` and `optax.apply_updates` do; `grad_norm` (f32[]) is that of the scaled gradients. The state
    is the same, so that a run can be resumed with or without it.
    """

    init: Callable[[Any], Any]
    update: Callable[..., Any]
    apply: Callable[[Any, jax.Array, Any, Any], tuple[Any, Any, jax.Array]]


Optimizer = optax.GradientTransformation | DirectOptimizer


def with_adamw_kernel(
    optimizer: optax.GradientTransformation,
    training: Mapping[str, Any],
    total_steps: int,
    implementation: str,
    rate: optax.Schedule | None = None,
) -> DirectOptimizer:
    """The AdamW of `make_optimizer`, with the step of `kernels.adamw`.

    Raises:
      ConfigError: `training.optimizer` is not adamw.
    """
    if training["optimizer"] != "adamw":
        raise ConfigError(f"training.optimizer = {training['optimizer']!r}: the kernel is one of adamw")
    rate = learning_rate_schedule(training, total_steps) if rate is None else rate

    def apply(grads: Any, gradient_scale: jax.Array, opt_state: Any, params: Any) -> tuple[Any, Any, jax.Array]:
        adam = _find(opt_state, optax.ScaleByAdamState)
        decay = float(training["weight_decay"])
        done = adamw(
            params,
            grads,
            adam.mu,
            adam.nu,
            count=adam.count,
            learning_rate=rate(_find(opt_state, optax.ScaleByScheduleState).count),
            b1=float(training["b1"]),
            b2=float(training["b2"]),
            weight_decay=jax.tree.map(lambda is_matrix: decay if is_matrix else 0.0, matrices(params)),
            clip_norm=float(training["clip_norm"]),
            gradient_scale=gradient_scale,
            implementation=implementation,
        )

        def advanced(node: Any) -> Any:
            if not isinstance(node, _COUNTING):
                return node
            node = node._replace(count=optax.safe_increment(node.count))
            return node._replace(mu=done.first_moment, nu=done.second_moment) if hasattr(node, "mu") else node

        opt_state = jax.tree.map(advanced, opt_state, is_leaf=lambda node: isinstance(node, _COUNTING))
        return done.params, opt_state, done.grad_norm

    return DirectOptimizer(optimizer.init, optimizer.update, apply)


_COUNTING = (optax.ScaleByAdamState, optax.ScaleByScheduleState)


def evaluation_params(opt_name: str, state: State) -> Any:
    """The parameters to evaluate: those of the state, or for schedule_free its implicit average."""
    if opt_name != "schedule_free":
        return state.params
    return _schedule_free_average(_find(state.opt_state, ScheduleFreeState), state.params)


def gradient_statistics(opt_state: Any) -> Any:
    """The part of the optimizer state that is a smooth function of the gradients.

    It excludes the iterate z of schedule_free, whose first update is the sign of the gradient, and so arbitrary for a
    gradient that is zero up to rounding.
    """
    return jax.tree.map(
        lambda node: node._replace(z=None) if isinstance(node, ScheduleFreeState) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, ScheduleFreeState),
    )


def matrices(params: Any) -> Any:
    """True for every leaf that weight decay acts on."""
    return jax.tree.map_with_path(lambda path, x: x.ndim >= 2 and _name(path) not in _VECTORS, params)


def _kernels(params: Any) -> Any:
    """True for every leaf that Muon orthogonalizes, layer by layer in a stack."""
    return jax.tree.map_with_path(lambda path, x: x.ndim >= 2 and _name(path) == "kernel", params)


def _refuse(problems: Iterable[str]) -> None:
    if lines := list(problems):
        raise ConfigError("\n".join(lines))


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def _schedule_free(
    training: Mapping[str, Any], rate: optax.Schedule, b1: float, b2: float, decay: float
) -> optax.GradientTransformation:
    """`optax.contrib.schedule_free_adamw`, with the decay masked to matrices."""
    _refuse(wrong_schedule_free(training))
    base = optax.chain(
        optax.scale_by_rms(decay=b2, eps=1e-8, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(decay, matrices),
        optax.scale_by_learning_rate(rate),
    )
    # The wrapper counts its steps from 1, the base optimizer from 0.
    return optax.contrib.schedule_free(base, lambda count: rate(count - 1), b1=b1)


@jax.jit
def _schedule_free_average(opt_state: ScheduleFreeState, params: Any) -> Any:
    return optax.contrib.schedule_free_eval_params(opt_state, params)


def _find(opt_state: Any, kind: type) -> Any:
    """The one node of this type in an optimizer's state."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return next(node for node in nodes if isinstance(node, kind))
