"""The stage that prepares the text: token ids, the run's tokenizer, and the n-gram entropies to beat."""

from ryot_jax.data.entropy import NgramEntropies, ngram_entropies
from ryot_jax.data.pipeline import Corpus
from ryot_jax.data.tokenizer import JsonTokenizer
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Stage, StageResult
from ryot_jax.runtime.files import write_text


def _prepare(run: Run) -> StageResult[NgramEntropies]:
    run.console.line(_describe(run.corpus))
    if isinstance(run.corpus.tokenizer, JsonTokenizer):
        write_text(run.directory.tokenizer, run.corpus.tokenizer.to_json())
    entropies = ngram_entropies(run.corpus.train, run.setup.heldout, run.session.model.vocab_size)
    run.console.line(
        f"held-out entropy of counts: unigram {entropies.unigram:.3f}, bigram {entropies.bigram:.3f} nats/token"
    )
    return StageResult(entropies)


def _describe(corpus: Corpus) -> str:
    facts = corpus.description
    train, heldout = facts["train"], facts["heldout"]
    return (
        f"text: {facts['source']}, {train['tokens']:,} training and {heldout['tokens']:,} held-out tokens, "
        f"cache {facts['cache']} ({facts['seconds']:.1f} s)"
    )


STAGE = Stage("data", _prepare)
