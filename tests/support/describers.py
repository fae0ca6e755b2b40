"""Servers that play a describer of latents: one that is honest, and one that says the same of everything."""

import re

KEY = "sk-secret-7"


def texts_of(question):
    """The numbered texts of a question."""
    return [line.split(". ", 1)[1] for line in question.splitlines() if re.match(r"\d+\. ", line)]


def marked(text):
    return re.findall(r"<<(.+?)>>", text)


def honest(handler):
    """Describes a latent by the words that are marked most often, and answers by looking for these words."""
    question = handler.body["messages"][0]["content"]
    texts = texts_of(question)
    if "have in common" in question:
        words = [word for text in texts for run in marked(text) for word in run.split()]
        best = sorted({*words}, key=lambda word: (-words.count(word), word))[:3]
        handler.say(f"one of the words {', '.join(best)}")
        return
    wanted = {*re.search(r"one of the words (.*)", question)[1].split(", ")}
    if "right tokens marked" in question:
        said = [any({*run.split()} & wanted for run in marked(text)) for text in texts]
    else:
        said = [bool({*text.split()} & wanted) for text in texts]
    handler.say(str([int(x) for x in said]))


def constant(handler):
    """Describes everything alike, and repeats the example of each question."""
    question = handler.body["messages"][0]["content"]
    example = re.search(r"For example (\[.*?\])", question)
    handler.say(example[1] if example else "a word")
