"""Contrasts of random words of the small models' vocabulary, which differ in a word, in an answer, or by chance."""

import random

from interp import Contrast
from interp.data._pairs import Turn, TurnPair


def words(rng, n=4):
    return " ".join(f"w{rng.randint(20, 127)}" for _ in range(n))


def choices(n=24, seed=0):
    """One prompt with two answers, of two tokens and of one."""
    rng = random.Random(seed)
    return Contrast(tuple(TurnPair(Turn(p, " w5 w6"), Turn(p, " w9")) for p in (words(rng) for _ in range(n))))


def sentences(n=40, seed=0):
    """Two texts that differ in one word in the middle."""
    rng = random.Random(seed)
    return Contrast.of([(f"{a} w5 {b}", f"{a} w9 {b}") for a, b in ((words(rng), words(rng, 3)) for _ in range(n))])


def endings(last, n=60, seed=0):
    """Random words, the same for each `last`, and after them one word."""
    rng = random.Random(seed)
    return [f"{words(rng)} {last}" for _ in range(n)]


def last_words(positive="w5", negative="w9", n=60):
    """Each pair is the same random words, after which one word differs."""
    return Contrast.of(zip(endings(positive, n), endings(negative, n), strict=True))


def noise(n=60):
    """Two sides of random words: only chance separates them."""
    rng = random.Random(0)
    sides = [[" ".join(f"w{rng.randint(4, 127)}" for _ in range(5)) for _ in range(n)] for _ in range(2)]
    return Contrast.of(zip(*sides, strict=True))
