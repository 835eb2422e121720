"""`ryot generate`: continue a prompt with a run's checkpoint."""

import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ryot_jax.cli import GenerateOptions
from ryot_jax.commands.caches import use_compilation_cache
from ryot_jax.commands.checkpoint_of_run import restore, restore_compressed
from ryot_jax.decoding.generate import generate
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError


def run(config: ConfigDict, options: GenerateOptions, console: Console) -> int:
    """Prints the prompt and what the model makes of it.

    Raises:
      CheckpointError: there is no such checkpoint, or no tokenizer that fits it.
      ConfigError: prompt and new tokens do not fit into the model's positions.
    """
    use_compilation_cache(config)
    trained = (restore_compressed if options.compressed else restore)(config, options)
    tokenizer, model = trained.require_tokenizer(), trained.model
    prompt_ids = tokenizer.encode(options.prompt)
    if not prompt_ids:
        raise ConfigError("--prompt is empty; give at least one character")
    new_tokens = options.max_new_tokens or max(model.max_len - len(prompt_ids), 1)
    start = time.perf_counter()
    ids_BN = generate(
        trained.graphdef,
        trained.params,
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
        f"({options.arm}, {options.checkpoint} checkpoint of step {trained.step}"
        f"{', compressed' if options.compressed else ''}; "
        f"{new_tokens} tokens in {seconds:.2f} s, compilation included)"
    )
    return 0
