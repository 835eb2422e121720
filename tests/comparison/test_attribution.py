"""Effects against constructed times, hand calculation and brute force; coverage and false positives in simulations."""

import gc
import itertools
import math

import numpy as np
import pytest

from ryot_jax.comparison import attribution
from ryot_jax.comparison.attribution import Player, attribute, least_holm_p, subsets
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.statistics import sign_flip_p

FACTORS = {"a": 1.2, "b": 0.9, "c": 1.5}
NOTHING = frozenset()


def _players(names):
    return [Player(name, f"optimizations.{name}", "cpu") for name in names]


def _times(names, log_gain, *, rounds=6, noise=0.0, seed=0, wanted=None):
    """Seconds of each subset's arm, 0.1 / exp(log_gain(subset)), in rounds that differ and with noise of its own."""
    rng = np.random.default_rng(seed)
    round_factors = np.exp(rng.normal(0.0, 0.3, rounds))
    return {
        subset: 0.1 * round_factors * np.exp(noise * rng.standard_t(5, rounds) - log_gain(subset))
        for subset in wanted or subsets(list(names))
    }


def _log_gain(subset):
    return sum(math.log(FACTORS[name]) for name in subset)


def _by_name(found):
    return {player.name: player for player in found.players}


def test_independent_factors_are_recovered_alone_left_out_and_by_shapley():
    found = attribute(_times(FACTORS, _log_gain), _players(FACTORS))
    for player in found.players:
        for effect in (player.alone, player.left_out, player.shapley):
            assert effect.estimate == pytest.approx(FACTORS[player.name], rel=1e-12)
    assert found.total.estimate == pytest.approx(1.2 * 0.9 * 1.5, rel=1e-12)
    assert found.interaction.estimate == pytest.approx(1.0, rel=1e-12)
    assert (found.players[0].switch, found.players[0].implementation) == ("optimizations.a", "cpu")


def test_step_times_are_geometric_means_whose_ratio_is_the_total():
    seconds = {NOTHING: [0.1, 0.4], frozenset("a"): [0.05, 0.05]}
    found = attribute(seconds, _players("a"))
    assert (found.rounds, found.baseline_ms, found.full_ms) == (2, pytest.approx(200.0), pytest.approx(50.0))
    assert found.total.estimate == pytest.approx(4.0)


def test_an_interaction_of_two_is_shown_and_shapley_splits_it_evenly():
    gamma = math.log(1.21)

    def log_gain(subset):
        return _log_gain(subset) + gamma * (subset >= {"a", "b"})

    found = attribute(_times(FACTORS, log_gain), _players(FACTORS))
    a, b, c = found.players
    assert [p.alone.estimate for p in (a, b, c)] == pytest.approx([1.2, 0.9, 1.5])
    assert [p.left_out.estimate for p in (a, b, c)] == pytest.approx([1.2 * 1.21, 0.9 * 1.21, 1.5])
    assert [p.shapley.estimate for p in (a, b, c)] == pytest.approx([1.2 * 1.1, 0.9 * 1.1, 1.5])
    assert found.interaction.estimate == pytest.approx(1.21)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_shapley_is_the_mean_over_all_orders_and_multiplies_to_the_total(n):
    names = "abcde"[:n]
    seconds = _times(names, lambda subset: 0.0, rounds=4, noise=0.5, seed=n)
    found = attribute(seconds, _players(names))
    orders = list(itertools.permutations(names))
    for player in found.players:
        gains = []
        for order in orders:
            before = frozenset(order[: order.index(player.name)])
            gains.append(np.log(seconds[before]) - np.log(seconds[before | {player.name}]))
        assert player.shapley.estimate == pytest.approx(math.exp(np.mean(gains)), rel=1e-12)
    product = math.prod(player.shapley.estimate for player in found.players)
    assert product == pytest.approx(found.total.estimate, rel=1e-12)


def test_players_that_do_the_same_get_the_same_and_one_that_does_nothing_gets_one():
    def log_gain(subset):  # a and b save the same half; d does nothing whoever else is on
        return math.log(2.0) * bool(subset & {"a", "b"}) + math.log(1.3) * ("c" in subset)

    found = attribute(_times("abcd", log_gain), _players("abcd"))
    a, b, c, d = found.players
    assert a.shapley.estimate == pytest.approx(b.shapley.estimate, rel=1e-12)
    assert a.shapley.estimate == pytest.approx(math.sqrt(2.0))
    assert (a.alone.estimate, a.left_out.estimate) == (pytest.approx(2.0), pytest.approx(1.0))
    assert c.shapley.estimate == pytest.approx(1.3)
    assert [e.estimate for e in (d.alone, d.left_out, d.shapley)] == pytest.approx([1.0, 1.0, 1.0])
    assert found.interaction.estimate == pytest.approx(0.5), "the same half saved twice"


def test_what_slows_whole_rounds_changes_nothing():
    seconds = _times(FACTORS, _log_gain, noise=0.05)
    slower = {subset: values * np.array([1.0, 9.0, 2.0, 1.0, 5.0, 3.0]) for subset, values in seconds.items()}
    before, after = attribute(seconds, _players(FACTORS)), attribute(slower, _players(FACTORS))
    for one, other in zip(before.players, after.players, strict=True):
        assert other.shapley.estimate == pytest.approx(one.shapley.estimate, rel=1e-12)
        assert other.shapley.ci95 == pytest.approx(one.shapley.ci95, rel=1e-9)
        assert other.alone.ci95 == pytest.approx(one.alone.ci95, rel=1e-9)


def test_an_interval_is_that_of_t_on_the_log_ratios_of_rounds():
    ratios = np.array([1.31, 1.02, 0.97, 1.24, 1.11])
    found = attribute({NOTHING: 3.0 * ratios, frozenset("a"): np.full(5, 3.0)}, _players("a"))
    logs = np.log(ratios)
    # 2.776445 is the 97.5 % quantile of Student's t with 4 degrees of freedom, from a table.
    half = 2.7764451 * logs.std(ddof=1) / math.sqrt(5)
    expected = (math.exp(logs.mean() - half), math.exp(logs.mean() + half))
    (a,) = found.players
    for effect in (found.total, a.alone, a.left_out, a.shapley):
        assert effect.ci95 == pytest.approx(expected, rel=1e-7)
    assert (found.interaction.estimate, found.interaction.ci95) == (1.0, None)


def test_p_values_are_corrected_after_holm_over_alone_and_left_out_together():
    seconds = _times("abc", lambda subset: 0.02 * len(subset), rounds=8, noise=0.02, seed=3)
    found = attribute(seconds, _players("abc"))
    effects = [getattr(player, kind) for kind in ("alone", "left_out") for player in found.players]
    gains = [np.log(seconds[NOTHING]) - np.log(seconds[frozenset(name)]) for name in "abc"]
    full = frozenset("abc")
    gains += [np.log(seconds[full - {name}]) - np.log(seconds[full]) for name in "abc"]
    p = [sign_flip_p(gain) for gain in gains]
    assert [effect.p for effect in effects] == p and len(set(p)) > 3
    # The smallest of m is multiplied by m, the next by m - 1, and so on; none may fall below the one before.
    corrected, least = {}, 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        least = min(1.0, max(least, (6 - rank) * p[index]))
        corrected[index] = least
    assert [effect.p_holm for effect in effects] == pytest.approx([corrected[i] for i in range(6)])


@pytest.mark.parametrize("rounds", [2, 6, 16, 40])
def test_the_least_holm_p_is_that_of_rounds_that_all_agree(rounds):
    seconds = {subset: np.linspace(1.0, 1.1, rounds) * 2.0 ** -len(subset) for subset in subsets("ab")}
    assert attribute(seconds, _players("ab")).players[0].alone.p_holm == pytest.approx(least_holm_p(rounds, 4))


def test_without_all_subsets_there_is_no_shapley_value_but_everything_else():
    everything = _times("abcd", lambda subset: 0.1 * len(subset), noise=0.01)
    few = {subset: values for subset, values in everything.items() if len(subset) != 2}
    whole, part = attribute(everything, _players("abcd")), attribute(few, _players("abcd"))
    assert [player.shapley for player in part.players] == [None] * 4
    assert all(player.shapley is not None for player in whole.players)
    assert [player.alone for player in part.players] == [player.alone for player in whole.players]
    assert [player.left_out for player in part.players] == [player.left_out for player in whole.players]
    assert (part.total, part.interaction) == (whole.total, whole.interaction)


def test_an_arm_that_was_not_timed_takes_its_effect_from_the_table_and_from_the_family():
    seconds = _times("abc", lambda subset: 0.1 * len(subset), noise=0.01, rounds=8)
    del seconds[frozenset("b")]
    found = attribute(seconds, _players("abc"))
    a, b, _ = found.players
    assert (b.alone.estimate, b.alone.ci95, b.alone.p, b.alone.p_holm) == (None, None, None, None)
    assert b.left_out.estimate is not None
    assert (found.interaction.estimate, found.interaction.ci95) == (None, None)
    assert a.alone.p == pytest.approx(2 / 2**8) and a.alone.p_holm == pytest.approx(5 * 2 / 2**8)


def test_outliers_are_what_neither_arm_nor_round_explains():
    seconds = _times(FACTORS, _log_gain, rounds=8, noise=0.02)
    seconds = {subset: values * np.array([1.0, 1, 1, 4, 1, 1, 1, 1]) for subset, values in seconds.items()}
    assert attribution.outliers(seconds) == [], "a round that is slow for all is none"
    slow, slower = frozenset("a"), frozenset("bc")
    seconds[slow][1] *= 2.0
    seconds[slower][6] *= 30.0
    found = attribution.outliers(seconds)
    assert [(outlier.subset, outlier.round) for outlier in found] == [(slower, 7), (slow, 2)]
    assert [outlier.factor for outlier in found] == pytest.approx([30.0, 2.0], rel=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NOTHING: None}, "the arm with nothing on is needed"),
        ({frozenset("ab"): None}, r"the arm with \['a', 'b'\] on is needed"),
        ({frozenset("z"): [1.0, 1.0]}, r"\['z'\] on, which are no players"),
        ({frozenset("a"): [1.0]}, "vectors of one length"),
        ({frozenset("a"): [1.0, 0.0]}, "positive and finite"),
        ({frozenset("a"): [1.0, math.nan]}, "positive and finite"),
    ],
)
def test_times_that_cannot_be_used_are_refused(change, message):
    seconds = {subset: [1.0, 2.0] for subset in subsets("ab")} | change
    with pytest.raises(ValueError, match=message):
        attribute({subset: values for subset, values in seconds.items() if values is not None}, _players("ab"))


@pytest.mark.parametrize("names", ["", "aa"])
def test_players_must_be_told_apart(names):
    with pytest.raises(ValueError, match="of different names"):
        attribute({NOTHING: [1.0], frozenset("a"): [1.0]}, _players(names))


def test_intervals_cover_the_true_effects_in_95_percent_of_simulations(monkeypatch):
    # No p value is looked at, and the sign-flip test would take most of the time.
    monkeypatch.setattr(attribution, "sign_flip_p", lambda values: None)
    gamma, simulations = math.log(1.1), 400

    def log_gain(subset):
        return _log_gain(subset) + gamma * (subset >= {"a", "b"})

    truth = {
        ("total",): 1.2 * 0.9 * 1.5 * 1.1,
        ("interaction",): 1.1,
        ("a", "alone"): 1.2,
        ("a", "left_out"): 1.2 * 1.1,
        ("a", "shapley"): 1.2 * math.sqrt(1.1),
        ("c", "shapley"): 1.5,
    }
    covered = dict.fromkeys(truth, 0)
    for seed in range(simulations):
        found = attribute(_times(FACTORS, log_gain, rounds=8, noise=0.03, seed=seed), _players(FACTORS))
        for key, value in truth.items():
            effect = getattr(found, key[0]) if len(key) == 1 else getattr(_by_name(found)[key[0]], key[1])
            covered[key] += effect.ci95[0] <= value <= effect.ci95[1]
    # The standard error of a rate of 95 % from 400 simulations is 1.1 %.
    assert all(0.92 <= count / simulations <= 0.985 for count in covered.values()), covered


def _drifting_arms(names, rng):
    """Blocks of arms that do the same, on one machine whose speed wanders from block to block."""
    state = {"log": 0.0}

    def block(n_steps):
        state["log"] = 0.95 * state["log"] + 0.05 * rng.standard_t(5)
        return n_steps * 0.1 * math.exp(state["log"] + 0.01 * rng.standard_t(5))

    return dict.fromkeys(names, block)


@pytest.fixture
def _quick_collections():
    """`multipletests` collects garbage in every call: what there is by now is not looked at again."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_quick_collections")
def test_players_that_do_nothing_seldom_look_as_if_they_did_after_holm():
    simulations, wrong, wrong_without_holm = 400, 0, 0
    wanted = {"+".join(sorted(subset)): subset for subset in subsets("ab")}
    for seed in range(simulations):
        arms = _drifting_arms(wanted, np.random.default_rng(seed))
        taken = interleave(arms, dict.fromkeys(arms, 10), rounds=8, seed=seed)
        found = attribute({subset: taken[name] for name, subset in wanted.items()}, _players("ab"))
        effects = [effect for player in found.players for effect in (player.alone, player.left_out)]
        wrong += any(effect.p_holm < 0.05 for effect in effects)
        wrong_without_holm += any(effect.p < 0.05 for effect in effects)
    # Nominal 5 %; the standard error of a rate from 400 simulations is 1.1 %.
    assert wrong / simulations <= 0.08
    assert wrong_without_holm / simulations > 0.09, "four tests at 5 % each, or the simulation could not tell"
