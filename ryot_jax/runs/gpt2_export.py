"""`ryot export`: a run's checkpoint as a folder that Hugging Face's `transformers` loads as a GPT-2.

The tokenizer of `transformers` reads the text "<|endoftext|>" as the special token, ours as plain text; the ids of all
other text are the same.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save_file

from ryot_jax.data.tokenizer import JsonTokenizer
from ryot_jax.model import gpt2_layout
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun, restore
from ryot_jax.runs.chosen_checkpoint import ChosenCheckpoint
from ryot_jax.runs.session import Session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_PASS, ConfigError
from ryot_jax.runtime.files import display_path, whole_folder, write_json, write_text


def export(session: Session, chosen: ChosenCheckpoint, to: Path, console: Console) -> int:
    """Writes the folder atomically; returns 0.

    Args:
      session: session of the run's config.
      chosen: the checkpoint.
      to: a folder that does not exist or is empty.
      console: receives the names of the files.

    Raises:
      CheckpointError: the checkpoint does not exist or is damaged.
      ConfigError: GPT-2 cannot express the model, or the folder cannot be written.
    """
    trained = restore(session, chosen)
    gpt2_layout.check(trained.model)
    try:
        with whole_folder(to) as folder:
            write(folder, trained)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"--to={to} cannot be written: {error}; name another folder") from error
    console.line(f"exported the {chosen.checkpoint} checkpoint ({chosen.arm}, step {trained.step}) to {to}:")
    for file in sorted(to.iterdir()):
        console.line(f"  {file.name} ({file.stat().st_size:,} bytes)")
    path = display_path(to.absolute())
    console.line(f"next: transformers.AutoModelForCausalLM.from_pretrained({str(path)!r})")
    return EXIT_PASS


def write(folder: Path, trained: CheckpointOfRun) -> None:
    """Writes the files of a model, and of its tokenizer if it has one, into an existing folder.

    Raises:
      ConfigError: GPT-2 cannot express the model.
      OSError, SafetensorError: the folder cannot be written.
    """
    tokenizer, model = trained.tokenizer, trained.model
    tensors = gpt2_layout.to_gpt2(model, trained.params)
    end = None if tokenizer is None else tokenizer.eod
    # 'pt' marks PyTorch's array layout; transformers refuses a file without it.
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", gpt2_layout.gpt2_config(model, end))
    write_json(folder / "generation_config.json", {"bos_token_id": end, "eos_token_id": end})
    if tokenizer is not None:
        write_text(folder / "tokenizer.json", tokenizer.to_json())
        write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer, model.max_len))


def _tokenizer_config(tokenizer: JsonTokenizer, max_len: int) -> dict[str, Any]:
    return {
        # This class loads tokenizer.json unchanged; GPT2Tokenizer would build its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_len,
        "bos_token": tokenizer.eod_name,
        "eos_token": tokenizer.eod_name,
        "clean_up_tokenization_spaces": False,  # else decoding removes spaces before full stops
    }
