"""Speed of generation, and invariance of the text under speculation: a run's model on held-out and on random prompts.

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy
    ryot --config=configs/scaled.py --config.model.max_len=320 --config.training.seq_len=320 \
        --config.training.batch_size=13 --config.evaluation.batch_size=13
    python -m experiments.decoding --run=runs/THAT_RUN --torch_python=/tmp/torch/bin/python --write

`scaled.py` itself has 128 positions, too few for a prompt and 256 new tokens; the run above is the same model with 320,
trained on as many tokens. First all prompts are continued with and without drafts, greedy and sampled, and every token
is compared. Then single calls are timed in random order, there and back in every round: the engines of
`ryot_jax.decoding`, drafts, and a PyTorch program in another process. Ratios are taken within a round. 6 minutes.

Goals: all tokens the same; the plain generator 2.5 times as fast as the fastest PyTorch program for one sequence, and
as fast for 32; with drafts 1.5 times as fast as the fastest plain decoder on held-out text, at least 0.97 times on
prompts of random tokens and with a draft that is always wrong. Exit code 0: all reached, 3: one missed, 4:
inconclusive.
"""

import argparse
import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lib import record
from experiments.lib.blocks import block_of
from experiments.lib.checkpoint import best_of_run
from experiments.lib.record import Table
from experiments.peers.task import write_weights
from experiments.peers.worker import Worker, WorkerError, cores
from ryot_jax import decoding
from ryot_jax.comparison.criteria import Criterion, Verdict
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.statistics import SpeedUp, speed_up
from ryot_jax.kernels import cpu
from ryot_jax.model import functional
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun
from ryot_jax.runtime.errors import ConfigError, RyotError

PROMPT = 64
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}  # nats, mean over the 63 targets of one prompt


def draw_prompts(ids: np.ndarray, vocab_size: int, count: int, seed: int) -> dict[str, np.ndarray]:
    """Prompts of held-out text, spread over it, and as many of random tokens; int32[count, PROMPT]."""
    starts = np.linspace(0, len(ids) - PROMPT, count).astype(int)
    random = np.random.default_rng(seed).integers(0, vocab_size, (count, PROMPT))
    return {
        "held-out": np.stack([ids[start : start + PROMPT] for start in starts]).astype(np.int32),
        "random": random.astype(np.int32),
    }


def speculations(decoder: decoding.Decoder) -> dict[str, decoding.Speculation]:
    """The drafts by name; create them once, as programs are compiled for each object."""
    successor_V, V = decoding.bigrams(decoder), decoder.cfg.vocab_size
    drafts = {
        "lookup": decoding.lookup_draft(V, successor_V=successor_V),
        "lookup, 3 tokens": decoding.lookup_draft(V, length=3, successor_V=successor_V),
        "lookup, 10 tokens": decoding.lookup_draft(V, length=10, successor_V=successor_V),
        "lookup of pairs": decoding.lookup_draft(V, order=2, successor_V=successor_V),
        "lookup, no bigrams": decoding.lookup_draft(V),
        "bigram": decoding.bigram_draft(successor_V),
    }
    return {name: decoding.Speculation(draft) for name, draft in drafts.items()}


def compare_tokens(
    decoder: decoding.Decoder,
    lookup: decoding.Speculation,
    prompts: dict[str, np.ndarray],
    new_tokens: int,
    batch_sizes: tuple[int, ...],
) -> tuple[Table, list[Criterion], int]:
    """Compare every token with and without drafts; return the tables and a token that no text has."""
    rows, same, compared = [], 0, 0
    seen: set[int] = set()
    samplings = {"greedy": decoding.Sampling(), "sampled": decoding.Sampling(0.8, top_p=0.95)}
    for kind, prompts_nS in prompts.items():
        for how, sampling in samplings.items():
            for B in batch_sizes:
                used = len(prompts_nS) // B * B if how == "greedy" else min(len(prompts_nS), 128) // B * B
                alike = drafted = accepted = 0
                for first in range(0, used, B):
                    continued = functools.partial(
                        decoding.generate,
                        decoder,
                        prompts_nS[first : first + B],
                        max_new_tokens=new_tokens,
                        sampling=sampling,
                        key=jax.random.key(first),
                    )
                    plain, found = continued(), continued(speculation=lookup)
                    alike += int((plain.ids_BN == found.ids_BN).all(axis=1).sum())
                    drafted, accepted = drafted + int(found.drafted_B.sum()), accepted + int(found.accepted_B.sum())
                    seen |= set(np.unique(plain.ids_BN).tolist()) if how == "greedy" else set()
                if how == "greedy":
                    same, compared = same + alike, compared + used
                share = f"{accepted / drafted:.2f}" if drafted else "-"
                rows.append((f"{kind}, {how}, {B} at a time", f"{alike:,} of {used:,}", share))
    verdict: Verdict = "PASS" if same == compared else "FAIL"
    criterion = Criterion(
        f"greedy texts of {new_tokens} tokens that drafts leave as they are",
        "all",
        f"{same:,} of {compared:,}",
        verdict,
    )
    table = Table("the same tokens with the lookup draft", ("prompts", "texts alike", "drafted tokens right"), rows)
    unseen = next(token for token in range(decoder.cfg.vocab_size) if token not in seen)
    return table, [criterion], unseen


Block = Callable[[int], float]


def generating(decoder: decoding.Decoder, prompts_nS: np.ndarray, B: int, new_tokens: int, speculation) -> Block:
    """A block of calls of one program, cycling through the prompts."""
    place = 0

    def block(n_calls: int) -> float:
        nonlocal place
        seconds = 0.0
        for _ in range(n_calls):
            at = np.arange(place, place + B) % len(prompts_nS)
            place += B
            start = time.perf_counter()
            found = decoding.generate(decoder, prompts_nS[at], max_new_tokens=new_tokens, speculation=speculation)
            jax.block_until_ready(found)
            seconds += time.perf_counter() - start
        return seconds

    return block


def tokens_per_step(decoder, prompts_nS, new_tokens, speculation) -> tuple[float, float]:
    """New tokens per step after the first one, and the share of correct drafted tokens, over single prompts."""
    steps = drafted = accepted = 0
    for prompt_S in prompts_nS:
        found = decoding.generate(decoder, prompt_S[None], max_new_tokens=new_tokens, speculation=speculation)
        steps += int(found.steps)
        drafted, accepted = drafted + int(found.drafted_B[0]), accepted + int(found.accepted_B[0])
    return len(prompts_nS) * (new_tokens - 1) / steps, accepted / drafted if drafted else 0.0


def write_task(folder: Path, trained: CheckpointOfRun, prompts_nS: np.ndarray, new_tokens: int) -> None:
    """Write the files that the PyTorch program reads."""
    model = trained.model
    if (model.positions, model.norm, model.mlp, model.tie_embeddings) != ("learned", "layer", "gelu", True):
        raise ConfigError("the PyTorch program knows learned positions, layer norm, gelu and a tied embedding alone")
    write_weights(folder, trained.params)
    np.save(folder / "prompts.npy", prompts_nS)
    sizes = {name: getattr(model, name) for name in ("n_heads", "d_model", "n_layers")}
    (folder / "config.json").write_text(json.dumps({"model": sizes, "new_tokens": new_tokens}), encoding="utf-8")


def start_torch(
    python: str, folder: Path, B: int, stack: contextlib.ExitStack, wanted_loss: float
) -> dict[str, Worker]:
    """Start the PyTorch programs for this batch size, checked to be the same model."""
    workers = {}
    for precision, threads in (("float32", cores()), ("float32", 1), ("bfloat16", cores())):
        if B > 1 and threads == 1:
            continue
        name = f"torch, {precision}, {threads} threads"
        command = [python, "-m", "experiments.peers.torch_decode", f"--task={folder}", f"--batch={B}"]
        command += [f"--precision={precision}", f"--threads={threads}"]
        worker = stack.enter_context(Worker(command, folder / f"{B}-{precision}-{threads}.log"))
        if B == 1 and not abs(worker.ready.initial_loss - wanted_loss) <= LOSS_TOLERANCE[precision]:
            raise RyotError(
                f"{name} is not the same model: loss {worker.ready.initial_loss:.4f}, ours {wanted_loss:.4f}"
            )
        workers[name] = worker
    return workers


def prompt_loss(trained: CheckpointOfRun, prompt_S: np.ndarray) -> float:
    """Mean cross-entropy in nats of the prompt's own tokens, by the model itself."""
    prompt_1S = jnp.asarray(prompt_S)[None]
    batch = {"inputs": prompt_1S[:, :-1], "targets": prompt_1S[:, 1:]}
    losses, targets = functional.sequence_losses(trained.graphdef, trained.params, batch)
    return float(losses[0] / targets[0])


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="latest")
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    parser.add_argument("--arm", default="optimized")
    parser.add_argument("--prompts", type=int, default=1000, help="of each kind, whose tokens are compared")
    parser.add_argument("--new_tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=16, help="each gives one pair")
    parser.add_argument("--calls", type=int, default=6, help="of a visit, of which a round has two, for one sequence")
    parser.add_argument("--torch_python", default="", help="an interpreter that has torch and numpy")
    parser.add_argument("--write", action="store_true", help="write experiments/results/decoding.md")
    options = parser.parse_args(words)
    others = record.others_at_work()
    trained, corpus = best_of_run(options.workdir, options.run, options.arm)
    prompts = draw_prompts(np.asarray(corpus.heldout), trained.model.vocab_size, options.prompts, seed=0)
    N = options.new_tokens

    fast = decoding.prepare(trained.params, trained.model)
    drafts = speculations(fast)
    same, criteria, unseen = compare_tokens(fast, drafts["lookup"], prompts, N, (1, 32))
    tables = [same]
    notes = [
        others,
        f"The model is that of {trained.directory.path.name}, {options.arm}: {trained.model.n_layers} layers of width "
        f"{trained.model.d_model}, {trained.model.max_len} positions; prompts of {PROMPT} tokens, {N} new ones.",
        "Greedy text of so small a model falls into repetition, which is where a lookup draft is right: the share of "
        "sampled text's drafted tokens, in the first table, is what other text may hope for.",
    ]

    timed_nS = {kind: prompts_nS[:: max(1, len(prompts_nS) // 96)][:96] for kind, prompts_nS in prompts.items()}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        write_task(folder, trained, timed_nS["held-out"], N)
        for B in (1, 32):
            blocks: dict[str, Block] = {"plain": generating(fast, timed_nS["held-out"], B, N, None)}
            if fast.dtype != "float32" and cpu.unavailable_reason() is None:
                exact = decoding.prepare(trained.params, trained.model, engine="cpu", dtype="float32")
                blocks["plain, float32"] = generating(exact, timed_nS["held-out"], B, N, None)
            reference = decoding.prepare(trained.params, trained.model, engine="reference")
            blocks["plain, reference engine"] = generating(reference, timed_nS["held-out"], B, N, None)
            if options.torch_python:
                loss = prompt_loss(trained, timed_nS["held-out"][0])
                try:
                    for name, worker in start_torch(options.torch_python, folder, B, stack, loss).items():
                        blocks[name] = block_of(worker)
                except WorkerError as error:
                    raise RyotError(f"PyTorch: {error}") from error
            if B == 1:
                for name, speculation in drafts.items():
                    blocks[name] = generating(fast, timed_nS["held-out"], 1, N, speculation)
                blocks["plain, random prompts"] = generating(fast, timed_nS["random"], 1, N, None)
                blocks["lookup, random prompts"] = generating(fast, timed_nS["random"], 1, N, drafts["lookup"])
                wrong = decoding.bigram_draft(jnp.full(trained.model.vocab_size, unseen, jnp.int32))
                blocks["always wrong"] = generating(fast, timed_nS["held-out"], 1, N, decoding.Speculation(wrong))
            calls = options.calls if B == 1 else 2
            for block in blocks.values():
                block(1)  # compilation
            seconds = interleave(
                blocks,
                dict.fromkeys(blocks, calls),
                rounds=options.rounds,
                on_round=lambda done: record.progress(done, options.rounds),
            )
            ratios = {
                name: speed_up(seconds["plain" if "random" not in name else "plain, random prompts"], seconds[name])
                for name in blocks
            }
            tables.append(_speeds(f"batch {B}", seconds, ratios, B * N))
            criteria += _judged(B, seconds, ratios)
    rows = []
    for kind, prompts_nS in timed_nS.items():
        for name, speculation in drafts.items():
            per_step, share = tokens_per_step(fast, prompts_nS, N, speculation)
            rows.append((f"{name}, {kind}", f"{per_step:.2f}", f"{share:.2f}"))
    tables.append(
        Table("drafts, greedy, one sequence", ("draft, prompts", "tokens a step", "drafted tokens right"), rows)
    )
    return record.conclude(
        "decoding",
        "Decoding: plain, with drafts, and beside PyTorch",
        command=record.command("experiments.decoding", words),
        tables=tables,
        criteria=criteria,
        notes=notes,
        write=options.write,
    )


def _speeds(title: str, seconds: dict[str, np.ndarray], ratios: dict[str, SpeedUp], tokens: int) -> Table:
    rows = [
        (name, f"{tokens / np.median(values):,.0f}", record.in_words(ratios[name])) for name, values in seconds.items()
    ]
    return Table(f"{title}, one program after the other", ("program", "tokens/s", "times as fast as plain"), rows)


def _judged(B: int, seconds: dict[str, np.ndarray], ratios: dict[str, SpeedUp]) -> list[Criterion]:
    torch = [name for name in seconds if name.startswith("torch")]
    goal, name = {1: 2.5, 32: 1.0}[B], f"plain beside the fastest PyTorch program, batch {B}"
    if torch:
        fastest = min(torch, key=lambda name: float(np.median(seconds[name])))
        criteria = [record.at_least(name, speed_up(seconds[fastest], seconds["plain"]), goal)]
    else:
        criteria = [record.not_measured(name, f"at least {goal:g}", "give --torch_python")]
    if B == 1:
        fastest = min((name for name in seconds if name.startswith("plain") and "random" not in name),
                      key=lambda name: float(np.median(seconds[name])))  # fmt: skip
        criteria += [
            record.at_least("lookup draft on held-out text, against the fastest plain decoder",
                            speed_up(seconds[fastest], seconds["lookup"]), 1.5),
            record.at_least("lookup draft on prompts of random tokens", ratios["lookup, random prompts"], 0.97),
            record.at_least("a draft that is always wrong", ratios["always wrong"], 0.97),
        ]  # fmt: skip
    return criteria


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
