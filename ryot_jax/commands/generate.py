"""`ryot generate`: continue a prompt with a run's checkpoint."""

import contextlib
import json
import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ryot_jax.cli import GenerateOptions
from ryot_jax.commands.train import use_compilation_cache
from ryot_jax.data.tokenizer import JsonTokenizer, from_json
from ryot_jax.decoding.generate import generate
from ryot_jax.model.config import from_config
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.devices import describe_devices
from ryot_jax.runtime.errors import CheckpointError, ConfigError
from ryot_jax.runtime.run_directory import RunDirectory
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.optimizer import evaluation_params, make_optimizer
from ryot_jax.training.state import init_state


def run(config: ConfigDict, options: GenerateOptions, console: Console) -> int:
    """Prints the prompt and what the model makes of it.

    Raises:
      CheckpointError: there is no such checkpoint, or no tokenizer that fits it.
      ConfigError: prompt and new tokens do not fit into the model's positions.
    """
    use_compilation_cache(config)
    run_directory = RunDirectory(options.run)
    tokenizer = _tokenizer(run_directory)
    model = from_config(config.model, describe_devices().platform)
    total_steps = config.training.epochs * config.training.steps_per_epoch
    graphdef, fresh = init_state(model, make_optimizer(config.training, total_steps), config.seed)
    checkpoints = Checkpoints(run_directory.checkpoints / options.arm, read_only=True)
    with contextlib.closing(checkpoints):
        state, _ = checkpoints.restore(options.checkpoint, fresh)
    prompt_ids = tokenizer.encode(options.prompt)
    if not prompt_ids:
        raise ConfigError("--prompt is empty; give at least one character")
    new_tokens = options.max_new_tokens or max(model.max_len - len(prompt_ids), 1)
    start = time.perf_counter()
    ids_BN = generate(
        graphdef,
        evaluation_params(config.training.optimizer, state),
        model,
        jnp.asarray([prompt_ids]),
        max_new_tokens=new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        key=jax.random.key(options.seed),
    )
    new_ids = [int(token) for token in ids_BN[0]]
    seconds = time.perf_counter() - start
    if tokenizer.eod in new_ids:
        new_ids = new_ids[: new_ids.index(tokenizer.eod)]
    # Decoded in one piece: a character's bytes may lie on both sides of the prompt's end.
    console.line(tokenizer.decode([*prompt_ids, *new_ids]))
    console.line()
    console.line(
        f"({options.arm}, {options.checkpoint} checkpoint of step {int(state.step)}; "
        f"{new_tokens} tokens in {seconds:.2f} s, compilation included)"
    )
    return 0


def _tokenizer(directory: RunDirectory) -> JsonTokenizer:
    if not directory.tokenizer.is_file():
        raise CheckpointError(
            f"{directory.path} has no tokenizer.json: it was trained on token files without a tokenizer; "
            "train with tokenizer.kind = 'file' and tokenizer.path to generate text"
        )
    text = directory.tokenizer.read_text(encoding="utf-8")
    found = json.loads(directory.manifest.read_text(encoding="utf-8"))
    tokenizer = from_json(text, eod=found["end_of_document"])
    if tokenizer.hash != found["tokenizer_hash"]:
        raise CheckpointError(f"{directory.tokenizer} is not the tokenizer that the run was trained with; restore it")
    return tokenizer
