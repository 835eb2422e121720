"""Checkpoints on disk: state, data position and a few facts in one atomic directory per step, by orbax.

The latest and the best are kept side by side. This is the only module that knows orbax. Saving is synchronous, as
callers save between timed blocks, which a writing thread would disturb.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from ryot_jax.runtime.errors import CheckpointError, ConfigError
from ryot_jax.training.checkpoint_leaves import describe, in_words, named_leaves, place, sha256, to_host
from ryot_jax.training.state import State

_METRIC = "heldout_loss"
_SCHEMA_VERSION = 1


class Checkpoints:
    """The checkpoints of one arm in one directory.

    A checkpoint holds the state as a flat dict of arrays named by their path, so that it does not depend on the
    container types of any library, and the SHA-256 of every array, as orbax silently restores a file with a flipped
    bit.

    Args:
      directory: made absolute, and created unless `read_only`.
      keep_latest: number of newest checkpoints to keep, at least 1.
      keep_best: number of checkpoints with the lowest metric to keep beside them.
      read_only: whether to only read, as another process may be writing; nothing is created or cleaned up.

    Raises:
      ConfigError: a number of checkpoints to keep is out of range.
      CheckpointError: the directory cannot be read or written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep_latest: int = 1,
        keep_best: int = 1,
        *,
        read_only: bool = False,
    ):
        if keep_latest < 1:
            raise ConfigError(f"checkpoint.keep_latest = {keep_latest}: must be at least 1, to resume from")
        if keep_best < 0:
            raise ConfigError(f"checkpoint.keep_best = {keep_best}: must not be negative")
        self.directory = str(Path(directory).resolve())
        if read_only and not Path(self.directory).is_dir():
            raise CheckpointError(f"no checkpoint directory {self.directory}; check the name of the run")
        options = ocp.CheckpointManagerOptions(
            # Without best_fn orbax stores no metrics; the preservation policy decides what is kept.
            best_fn=_rank,
            best_mode="min",
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep_latest),
                    policies.BestN(get_metric_fn=_rank, reverse=True, n=keep_best),
                ]
            ),
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
            save_interval_steps=0 if read_only else 1,
        )
        try:
            with _quiet() if read_only else contextlib.nullcontext():
                self._manager = ocp.CheckpointManager(self.directory, options=options)
        except Exception as error:
            raise CheckpointError(
                f"cannot use {self.directory} for checkpoints: {error}; name a directory that can be written"
            ) from error

    def save(
        self,
        step: int,
        state: State,
        data_state: dict[str, Any],
        metric: float,
        config_json: str,
        *,
        arm: str = "",
    ) -> None:
        """Writes one checkpoint to disk and deletes those that are no longer kept; returns when both are done.

        Args:
          step: number of steps taken, greater than that of every checkpoint in the directory.
          state: fully replicated or on one device.
          data_state: position in the data, JSON types only.
          metric: held-out loss in nats per token, lower is better; one that is not finite is never the best.
          config_json: the resolved config.
          arm: name of the arm.

        Raises:
          CheckpointError: the step is not new, or the checkpoint could not be written.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise CheckpointError(
                f"checkpoint of step {step}: {self.directory} already holds step {latest}; "
                "resume from the latest one, or use another directory"
            )
        leaves = to_host(state)
        metadata = {
            "schema_version": _SCHEMA_VERSION,
            "arm": arm,
            "step": step,
            _METRIC: metric if math.isfinite(metric) else str(metric),
            "config": config_json,
            "config_hash": hashlib.sha256(config_json.encode()).hexdigest(),
            "key_impl": str(jax.random.key_impl(state.key)),
            "leaves": {name: describe(leaf) | {"sha256": sha256(leaf)} for name, leaf in leaves.items()},
        }
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves),
                    data=ocp.args.JsonSave(data_state),
                    metadata=ocp.args.JsonSave(metadata),
                ),
                metrics={_METRIC: float(metric)},
                force=True,
            )
            self._manager.wait_until_finished()
        except Exception as error:
            self._forget_failed_save()
            raise CheckpointError(
                f"checkpoint of step {step} could not be written to {self.directory}: {error}; "
                "check the free space and the permissions; checkpoints written before are untouched"
            ) from error

    def steps(self) -> list[int]:
        """The steps with a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step; None without a checkpoint."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the lowest finite metric, the newest of equals; None if there is none."""
        ranked = [(_rank(self._manager.metrics(step)), -step) for step in self.steps()]
        finite = [pair for pair in ranked if math.isfinite(pair[0])]
        return -min(finite)[1] if finite else None

    def metadata(self, which: int | str = "latest") -> dict[str, Any]:
        """The facts of a checkpoint: config, config_hash, arm, step, heldout_loss, leaves.

        Raises:
          CheckpointError: there is no such checkpoint, or it cannot be read.
        """
        return self._read(self._resolve(which), metadata=ocp.args.JsonRestore())["metadata"]

    def restore(self, which: int | str, abstract_state: State) -> tuple[State, dict[str, Any]]:
        """Reads a checkpoint back, bit for bit.

        Args:
          which: a step, 'latest' or 'best'.
          abstract_state: a state or `ShapeDtypeStruct`s; each leaf is placed on the devices of its counterpart here.

        Returns:
          The state and the data state.

        Raises:
          CheckpointError: there is no such checkpoint, it is damaged, or it is of another model or optimizer;
            the message names the leaf.
        """
        step = self._resolve(which)
        metadata = self._read(step, metadata=ocp.args.JsonRestore())["metadata"]
        wanted = named_leaves(abstract_state)
        self._check_structure(step, {n: describe(x) for n, x in wanted.items()}, metadata)
        templates = {
            name: np.broadcast_to(np.zeros((), leaf["dtype"]), leaf["shape"])
            for name, leaf in metadata["leaves"].items()
        }
        read = self._read(step, state=ocp.args.StandardRestore(templates), data=ocp.args.JsonRestore())
        leaves = {name: np.asarray(leaf) for name, leaf in read["state"].items()}
        for name, leaf in leaves.items():
            if sha256(leaf) != metadata["leaves"][name]["sha256"]:
                raise CheckpointError(
                    f"checkpoint of step {step} in {self.directory}: {name} is damaged (its SHA-256 is not "
                    f"that of what was saved); restore another step, there are {self.steps()}"
                )
        placed = [place(leaves[name], like, metadata["key_impl"]) for name, like in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), placed), read["data"]

    def delete_after(self, step: int) -> None:
        """Deletes every checkpoint after `step`.

        Raises:
          CheckpointError: a checkpoint could not be deleted.
        """
        for later in [s for s in self.steps() if s > step]:
            try:
                self._manager.delete(later)
            except Exception as error:
                raise CheckpointError(
                    f"checkpoint of step {later} in {self.directory} cannot be deleted: {error}; check the permissions"
                ) from error

    def wait(self) -> None:
        """Waits until all writing has finished.

        Raises:
          CheckpointError: a checkpoint could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise CheckpointError(f"checkpoint in {self.directory} could not be written: {error}") from error

    def close(self) -> None:
        """Waits for writing to finish and releases orbax's resources."""
        self.wait()
        self._manager.close()

    def _resolve(self, which: int | str) -> int:
        named = {"latest": self.latest_step, "best": self.best_step}
        step = named[which]() if isinstance(which, str) else which
        if step is None or step not in self.steps():
            raise CheckpointError(f"no checkpoint {which!r} in {self.directory}; there are {self.steps() or 'none'}")
        return step

    def _read(self, step: int, **items: Any) -> dict[str, Any]:
        try:
            return dict(self._manager.restore(step, args=ocp.args.Composite(**items)))
        except Exception as error:
            others = [s for s in self.steps() if s != step]
            raise CheckpointError(
                f"checkpoint of step {step} in {self.directory} cannot be read: {error}; "
                f"restore another step, there are {others or 'none'}"
            ) from error

    def _check_structure(self, step: int, wanted: dict[str, Any], metadata: dict[str, Any]) -> None:
        saved = {n: {"dtype": x["dtype"], "shape": x["shape"]} for n, x in metadata["leaves"].items()}
        for name in sorted(wanted.keys() | saved.keys(), key=lambda n: (not n.startswith("params."), n)):
            if wanted.get(name) != saved.get(name):
                raise CheckpointError(
                    f"checkpoint of step {step} in {self.directory} is of another model or optimizer: "
                    f"{name} is {in_words(saved.get(name))} there and {in_words(wanted.get(name))} here; "
                    "use the config that is stored in the checkpoint"
                )

    def _forget_failed_save(self) -> None:
        """Drops a failed step from orbax's list, where it would count as the latest."""
        with contextlib.suppress(OSError):  # The directory is gone, as the error being raised reports.
            self._manager.reload()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses orbax's warning about read-only directories."""
    level = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(level)


def _rank(metrics: dict[str, float] | None) -> float:
    """Sort key of checkpoints, lowest for the best; inf, never NaN, for one that must not be the best."""
    metric = math.inf if metrics is None else float(metrics[_METRIC])
    return metric if math.isfinite(metric) else math.inf
