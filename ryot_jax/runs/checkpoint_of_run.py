"""A trained model restored from a run directory: the parameters of a checkpoint, and everything needed to use them.

For commands that take a trained model (`generate`, `export`, `compress`); `training_pair` resumes a training from the
whole state.
"""

import contextlib
import dataclasses
import json

import jax
from ml_collections import ConfigDict

from ryot_jax.compression.compressed import named_leaves
from ryot_jax.compression.file import FileError, load
from ryot_jax.config import total_steps
from ryot_jax.data.tokenizer import JsonTokenizer, from_json
from ryot_jax.model import ModelConfig, functional
from ryot_jax.runs.chosen_checkpoint import ChosenCheckpoint
from ryot_jax.runs.session import Session
from ryot_jax.runtime.errors import CheckpointError
from ryot_jax.runtime.files import display_path
from ryot_jax.runtime.run_directory import RunDirectory
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.optimizer import evaluation_params, make_optimizer
from ryot_jax.training.state import State, new_state


@dataclasses.dataclass(frozen=True)
class CheckpointOfRun:
    """A trained model.

    Attributes:
      directory: the run directory.
      session: session of the run's config on this machine.
      model: the model's config, resolved for this machine.
      graphdef: the module without its weights.
      params: nested dict of float32 arrays, the weights for evaluation (`evaluation_params`); stacked by layer with
        `scan_layers`.
      step: number of training steps taken.
      tokenizer: the tokenizer of the training; None: the run was trained on token files without one.
    """

    directory: RunDirectory
    session: Session
    model: ModelConfig
    graphdef: functional.GraphDef
    params: functional.Params
    step: int
    tokenizer: JsonTokenizer | None

    @property
    def config(self) -> ConfigDict:
        """The config that the run was trained with."""
        return self.session.config

    def require_tokenizer(self) -> JsonTokenizer:
        """The tokenizer, which must exist.

        Raises:
          CheckpointError: the run has no tokenizer.
        """
        if self.tokenizer is None:
            raise CheckpointError(
                f"{self.directory.path} has no tokenizer.json: it was trained on token files without a tokenizer; "
                "train with tokenizer.kind = 'file' and tokenizer.path to turn its ids into text and back"
            )
        return self.tokenizer


def restore(session: Session, chosen: ChosenCheckpoint) -> CheckpointOfRun:
    """Restores a checkpoint.

    Args:
      session: session of the run's config.
      chosen: the run, the arm, and the checkpoint of the arm.

    Raises:
      CheckpointError: the checkpoint does not exist or is damaged, or its tokenizer is not that of the training.
      ConfigError: this machine cannot compute the model as configured.
    """
    directory = RunDirectory(chosen.run)
    tokenizer = _tokenizer(directory)
    config, model = session.config, session.model
    checkpoints = Checkpoints(directory.checkpoints / chosen.arm, read_only=True)
    with contextlib.closing(checkpoints):
        state, _ = checkpoints.restore(chosen.checkpoint, _abstract_state(config, model))
    return CheckpointOfRun(
        directory=directory,
        session=session,
        model=model,
        graphdef=functional.graph(model),
        params=evaluation_params(config.training.optimizer, state),
        step=int(state.step),
        tokenizer=tokenizer,
    )


def restore_compressed(session: Session, chosen: ChosenCheckpoint) -> CheckpointOfRun:
    """Restores a checkpoint from its compressed file alone; the parameters hold compressed arrays.

    Raises:
      CheckpointError: the file does not exist, is damaged or of another model, or the tokenizer is not that of the
        training.
    """
    directory = RunDirectory(chosen.run)
    tokenizer = _tokenizer(directory)
    model = dataclasses.replace(session.model, scan_layers=False)
    path = directory.compressed(chosen.arm, chosen.checkpoint)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there; make it with: ryot compress --run={display_path(directory.path)} --arm={chosen.arm} "
            f"--checkpoint={chosen.checkpoint}"
        )
    try:
        params, metadata = load(path)
    except FileError as error:
        raise CheckpointError(str(error)) from error
    wanted = {name: leaf.shape for name, leaf in named_leaves(_abstract_state(session.config, model).params).items()}
    shapes = {name: leaf.shape for name, leaf in named_leaves(params).items()}
    if wanted != shapes:
        raise CheckpointError(f"{path} is of another model than {directory.config} says; make it anew")
    return CheckpointOfRun(
        directory=directory,
        session=session,
        model=model,
        graphdef=functional.graph(model),
        params=params,
        step=int(metadata["step"]),
        tokenizer=tokenizer,
    )


def _abstract_state(config: ConfigDict, model: ModelConfig) -> State:
    """Shapes and dtypes of the training state, without computing or allocating it."""
    optimizer = make_optimizer(config.training, total_steps(config))

    def fresh() -> State:
        return new_state(functional.init(model, config.seed)[1], optimizer, config.seed)

    abstract: State = jax.eval_shape(fresh)
    return abstract


def _tokenizer(directory: RunDirectory) -> JsonTokenizer | None:
    if not directory.tokenizer.is_file():
        return None
    text = directory.tokenizer.read_text(encoding="utf-8")
    manifest = json.loads(directory.manifest.read_text(encoding="utf-8"))
    tokenizer = from_json(text, eod=manifest["end_of_document"])
    if tokenizer.hash != manifest["tokenizer_hash"]:
        raise CheckpointError(f"{directory.tokenizer} is not the tokenizer that the run was trained with; restore it")
    return tokenizer
