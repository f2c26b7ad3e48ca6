"""The features and figures of a confidence, straight from their definitions: slow, one caption at a time."""

from __future__ import annotations


def mean(values):
    return sum(values) / len(values)


def reference_features(hypotheses, evidence_cosines):
    """See ``magicap.decoding.confidence.FEATURES``."""
    chosen = hypotheses[0]
    by_beams = [one.expected_utility for one in hypotheses if one.log_probability is not None]
    cosines = [one.cosine for one in hypotheses[:10] if one.cosine is not None]
    return {
        "expected_utility": chosen.expected_utility,
        "mean_utility": mean([one.expected_utility for one in hypotheses]),
        "beam_gap": chosen.expected_utility - max(by_beams) if by_beams else 0,
        "best_cosine": mean(cosines) if cosines else 0,
        "evidence_cosine": mean(evidence_cosines) if len(evidence_cosines) else 0,
    }


def reference_area(confidence, right):
    """Pair by pair: how often the right caption is the surer one."""
    pairs = [
        (p > q) + (p == q) / 2
        for p, is_right in zip(confidence, right, strict=True)
        if is_right
        for q, other_right in zip(confidence, right, strict=True)
        if not other_right
    ]
    return mean(pairs) if pairs else float("nan")


def reference_error(confidence, right, bins):
    """Groups by rising confidence, the first ones larger by one where they cannot be of one size."""
    rows = sorted(zip(confidence, right, strict=True), key=lambda row: row[0])
    bins = min(bins, len(rows))
    total = start = 0
    for number in range(bins):
        size = len(rows) // bins + (number < len(rows) % bins)
        group = rows[start : start + size]
        total += abs(sum(p for p, _ in group) - sum(is_right for _, is_right in group))
        start += size
    return total / len(rows)
