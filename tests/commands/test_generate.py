"""`ryot generate`: what it prints is what the model generates, whole and at once, however it comes."""

import json

import jax
import numpy as np
import pytest

from ryot_jax import decoding
from ryot_jax.kernels import cpu
from ryot_jax.runs.checkpoint_of_run import restore
from ryot_jax.runs.chosen_checkpoint import best_of
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.console import Console, printable
from ryot_jax.runtime.errors import ConfigError
from tests import command_lines

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

PROMPT = "def value(self):\n    ret"
ENGINES = [
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels")),
]
# Any token is as likely as any other, whatever the model: line ends among them, and bytes of characters.
ANYTHING = ["--temperature=1e6", "--seed=14"]


class Lines(Console):
    """Keeps what is printed, call by call."""

    def __init__(self):
        self.calls = []

    def line(self, text=""):
        self.calls.append(printable(text))


def printed(run, *words):
    """What the command prints: the calls that print text, and the line that says what it took."""
    lines = Lines()
    assert command_lines.run(["generate", f"--run={run.directory.path}", *words], lines) == 0
    *text, empty, said = lines.calls
    assert empty == ""
    return text, said


def generated(run, prompt, *words):
    """The new tokens and the whole text of one call without a draft, by the run's tokenizer."""
    options = command_lines.parse(["generate", f"--run={run.directory.path}", f"--prompt={prompt}", *words])
    found = restore(open_session(options.config, print, cached_programs=False), options.chosen)
    tokenizer, decoder = found.require_tokenizer(), decoding.prepare(found.params, found.model, engine=options.engine)
    ids = tokenizer.encode(prompt)
    new = decoding.generate(
        decoder,
        [ids],
        max_new_tokens=options.max_new_tokens,
        sampling=decoding.Sampling(options.temperature, options.top_k, options.top_p, options.min_p),
        key=jax.random.key(options.seed),
    )
    new = np.asarray(new.ids_BN[0, : int(new.length_B[0])]).tolist()
    return new, printable(tokenizer.decode([*ids, *new]))


def end_documents_with(run, token):
    """Makes the token the one that ends a document in what is known of the run's tokenizer."""
    known = json.loads(run.directory.manifest.read_text(encoding="utf-8"))
    run.directory.manifest.write_text(json.dumps(known | {"end_of_document": token}), encoding="utf-8")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_text_comes_line_by_line_and_is_that_of_one_call(make_run, engine):
    run = make_run(**{"model.max_len": 256})
    words = ["--max_new_tokens=230", f"--engine={engine}", *ANYTHING]
    new, whole = generated(run, PROMPT, *words)
    assert whole.count("\n") > 3 and 0 not in new, "lines, and no end of a document"
    for draft in ("none", "lookup", "bigram"):
        text, said = printed(run, f"--prompt={PROMPT}", f"--draft={draft}", *words)
        assert "\n".join(text) == whole, draft
        assert len(text) > 2, "it comes in several pieces"
        assert f"{len(new)} tokens in " in said and f"{engine} engine in " in said


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("length", [0, 3])
def test_a_draft_spares_steps_and_changes_no_token(make_run, engine, length):
    run = make_run(**{"model.max_len": 128})
    words = [f"--prompt={PROMPT}", "--max_new_tokens=100", f"--engine={engine}"]
    plain, said_plain = printed(run, *words, "--draft=none")
    drafted, said = printed(run, *words, f"--draft_length={length}")
    assert drafted == plain
    assert "100 tokens in 99 steps" in said_plain and "drafted" not in said_plain
    assert "drafted tokens right" in said and "in 99 steps" not in said


@pytest.mark.parametrize("engine", ENGINES)
def test_several_prompts_are_continued_as_each_alone(make_run, engine):
    run = make_run()
    prompts, words = [PROMPT, "self", PROMPT], ["--max_new_tokens=9", f"--engine={engine}"]
    text, said = printed(run, *(f"--prompt={prompt}" for prompt in prompts), *words)
    assert text[0::2] == ["--- 1", "--- 2", "--- 3"]
    assert text[1::2] == [generated(run, prompt, *words)[1] for prompt in prompts]
    assert text[1] != text[3] and "27 tokens in " in said


def test_several_prompts_are_each_drawn_for(make_run):
    text, _ = printed(make_run(), *[f"--prompt={PROMPT}"] * 2, "--max_new_tokens=9", *ANYTHING)
    assert text[0::2] == ["--- 1", "--- 2"] and text[1] != text[3]


@pytest.mark.parametrize("prompts", [1, 2])
def test_the_text_ends_before_the_token_that_ends_a_document(make_run, prompts):
    run = make_run()
    words = [f"--prompt={PROMPT}"] * prompts + ["--max_new_tokens=12"]
    new, whole = generated(run, PROMPT, "--max_new_tokens=12")
    end = new[5]
    kept = new[: new.index(end)]
    end_documents_with(run, end)
    text, said = printed(run, *words)
    tokenizer = restore(
        open_session(run.config, print, cached_programs=False), best_of(run.directory, "optimized")
    ).tokenizer
    wanted = printable(tokenizer.decode([*tokenizer.encode(PROMPT), *kept]))
    assert wanted != whole
    assert ("\n".join(text) if prompts == 1 else text[1]) == wanted
    assert f"{prompts * (len(kept) + 1)} tokens in {len(kept)} steps" in said


def test_the_first_candidate_that_parses_is_printed(make_run):
    run = make_run()
    words = ["--max_new_tokens=4", *ANYTHING]
    new, whole = generated(run, "x = 1\n", *words)
    assert "\n" not in whole[len("x = 1\n") :], "what is drawn is no complete line"
    text, said = printed(run, "--prompt=x = 1\n", "--candidates=4", *words)
    assert text == [whole] and f"1 candidates of {len(new)} tokens, parses" in said


def test_where_no_candidate_parses_the_first_one_is_printed(make_run):
    run = make_run()
    words = ["--max_new_tokens=4", *ANYTHING]
    text, said = printed(run, "--prompt=x = = 1\n", "--candidates=4", *words)
    assert text == [generated(run, "x = = 1\n", *words)[1]]
    assert "4 candidates of 16 tokens, none of them parses" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt="], "--prompt is empty"),
        (["--prompt=x", "--prompt="], "--prompt is empty"),
        (["--prompt=x", "--max_new_tokens=32"], r"max_new_tokens = 32: .*model\.max_len = 32; ask for at most 31"),
        (["--prompt=x", "--temperature=1", "--top_p=0"], "top_p = 0"),
        (["--prompt=x", "--temperature=1", "--min_p=2"], "min_p = 2"),
        (["--prompt=x", "--temperature=1", "--top_k=301"], r"top_k = 301: exceeds model\.vocab_size = 300"),
    ],
)
def test_mistakes_are_named(make_run, words, message):
    with pytest.raises(ConfigError, match=message):
        printed(make_run(), *words)
