"""Suggestions for mistyped names, as hints in error messages; nothing is corrected silently."""

import difflib
from collections.abc import Iterable


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_") if word)


def closest(given: str, known: Iterable[str]) -> str | None:
    """The name in `known` that is nearest to `given`, or None if none is near.

    Names may be dotted paths. The last part decides first (`lr` and `batch` are near `learning_rate` and
    `batch_size` by initials and by prefix), a name in the same section wins over one elsewhere.
    """
    section, _, leaf = given.lower().rpartition(".")

    def score(candidate: str) -> float:
        candidate_section, _, candidate_leaf = candidate.lower().rpartition(".")
        similarity = difflib.SequenceMatcher(None, leaf, candidate_leaf).ratio()
        if len(leaf) > 1 and leaf == _initials(candidate_leaf):
            similarity = max(similarity, 0.9)
        if len(leaf) > 2 and candidate_leaf.startswith(leaf):
            similarity = max(similarity, 0.9)
        if similarity < 0.6:
            return 0.0
        return similarity + 0.2 * difflib.SequenceMatcher(None, section, candidate_section).ratio()

    ranked = sorted(known, key=score, reverse=True)
    return ranked[0] if ranked and score(ranked[0]) > 0 else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A clause to append to an error message: `"; did you mean X?"`, or the empty string."""
    name = closest(given, known)
    return f"; did you mean {name}?" if name else ""
