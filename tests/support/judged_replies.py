"""Judgements of replies of two kinds, by raters who agree, or who split by group."""

import json


def rows(prompts=24, split=False, noise=()):
    """Two raters of each of two groups compare a greeting with a brush-off; those of `south` swap where they split."""
    for n in range(prompts):
        sides = ["Good day to you.", "Go away, please."]
        for rater, group in (("a", "north"), ("b", "north"), ("c", "south"), ("d", "south")):
            swapped = (split and group == "south") != ((rater, n) in noise)
            chosen, rejected = sides[::-1] if swapped else sides
            pair = {"prompt": f"what is {n} plus 1?", "chosen": chosen, "rejected": rejected}
            yield pair | {"rater": rater, "rater_group": group}


def write(path, lines):
    """The lines as JSONL; returns the path."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
