"""Routing keys and the patterns of topic exchanges."""

from __future__ import annotations


def topic_matches(pattern: str, key: str) -> bool:
    """AMQP's rule: ``*`` is one word, ``#`` any number of words, none included (Kombu's own regex wants one)."""
    words = key.split(".") if key else []
    # reachable[i]: the pattern up to here can match the first i words.
    reachable = [True] + [False] * len(words)
    for part in pattern.split(".") if pattern else []:
        if part == "#":
            first = next((i for i, hit in enumerate(reachable) if hit), len(reachable))
            reachable = [i >= first for i in range(len(reachable))]
        else:
            reachable = [False] + [hit and part in ("*", word) for hit, word in zip(reachable, words, strict=False)]
    return reachable[-1]
