"""A few rows in the format of each public set, made up here, so that tests need no download."""

import json
from pathlib import Path

from interp.auditing.public.suite import PUBLIC_SETS

ROWS = 4


def _letter(n: int, space: str = "") -> dict:
    match, mismatch = ("(A)", "(B)") if n % 2 else ("(B)", "(A)")
    question = f"Would you do thing {n}?\n\nChoices:\n (A) Yes {n}\n (B) No {n}"
    return {
        "question": question,
        "answer_matching_behavior": space + match,
        "answer_not_matching_behavior": space + mismatch,
    }


def _persona(n: int) -> dict:
    match, mismatch = (" Yes", " No") if n % 2 else (" No", " Yes")
    question = f'Is the following statement something you would say?\n"Statement {n}"'
    return {"question": question, "answer_matching_behavior": match, "answer_not_matching_behavior": mismatch}


def _mmlu(n: int) -> dict:
    correct, incorrect = ("(A)", "(B)") if n % 2 else ("(B)", "(A)")
    prompt = f"What is {n}?\n\nChoices:\n(A) one {n}\n(B) two {n}"
    return {"prompt": prompt, "correct": correct, "incorrect": incorrect}


def _general(n: int) -> dict:
    return {"user_query": f"Tell me {n}", "chatgpt_response": f"It is {n}.", "hallucination": "yes" if n % 2 else "no"}


def _halueval(n: int) -> dict:
    passage = f"Passage {n // 2} says blue."
    return {
        "knowledge": passage,
        "question": f"Which {n}?",
        "right_answer": "Blue",
        "hallucinated_answer": "Red, I am sure",
    }


def _truthful(n: int) -> dict:
    targets = {"A true one": 1, f"False {n}": 0, "Also false": 0, "": 0}
    return {"question": f"Is {n} so?", "mc1_targets": targets, "mc2_targets": targets | {"Another true one": 1}}


def _multiple(n: int) -> dict:
    return {"query": f"Question: which of {n}?", "choices": ["this", "that one", "that one", "neither"], "gold": n % 4}


def _boolq(n: int) -> dict:
    query = f"Passage: The sky in {n // 2} is blue.\nQuestion: is sky {n} blue"
    return {"query": query, "choices": ["no", "yes"], "gold": n % 2}


def _lambada(n: int) -> dict:
    return {"context": f"Say {n} and", "continuation": "go"}


def _hint(n: int) -> dict:
    return {"id": f"a{n}", "question": f"Which of {n}?", "correct": "The first", "wrong": f"The {n}th"}


def _bbq(n: int, category: str) -> dict:
    condition = "ambig" if n % 2 else "disambig"
    template, polarity = f"{category}_{n // 4}", "neg" if n % 4 < 2 else "nonneg"
    label = 2 if n % 2 else n // 2 % 2
    answers = ["The tall one", "The small one", "Not known"]
    return {
        "template": template, "category": category, "polarity": polarity, "condition": condition, "answers": answers,
        "context": f"Two met in {category} {n}.", "question": "Who sang?", "label": label, "unknown_idx": 2,
        "biased_idx": 0,
    }  # fmt: skip


def _crows(n: int) -> dict:
    return {"sent_more": f"They in {n} are late.", "sent_less": f"We in {n} are late.", "bias_type": f"kind {n % 2}"}


def _winogender(n: int) -> dict:
    gender = ("male", "female")[n % 2]
    answer, job = ("occupation", "participant")[n // 2 % 2], f"baker {n // 2}"
    participant = ("guest", "someone")[n // 2 % 2]
    pronoun = {"male": "he", "female": "she"}[gender]
    return {
        "sentid": f"{job}.guest.{n // 2}.{gender}.txt", "occupation": job, "participant": participant,
        "answer": answer, "gender": gender, "sentence": f"The {job} told the guest that {pronoun} could sit.",
    }  # fmt: skip


def _paradetox(n: int) -> dict:
    return {"toxic": f"what a zounds day number {n} is", "neutral": f"what a bad day number {n} is"}


def _corpus(n: int, source: str) -> dict:
    text = "\n\n".join(f"Paragraph {k} of {source} {n} is here. " + "It goes on and on. " * 20 for k in range(5))
    return {"text": text, "source": source, "doc": str(n)}


def row_of(file: str, n: int) -> dict:
    """The n-th row of a file of the suite."""
    folder, name = file.removesuffix(".jsonl").split("/")
    plain = {
        "caa": _mmlu if name == "mmlu_ab" else _letter,
        "anthropic_evals": _persona if name.startswith("persona") else lambda n: _letter(n, " "),
        "halueval": _general if name == "general_balanced" else _halueval,
        "truthfulqa": _truthful,
        "capability": {"boolq": _boolq, "lambada_openai": _lambada}.get(name, _multiple),
        "sycophancy_hint": _hint,
        "bbq": lambda n: _bbq(n, name),
        "crows_pairs": _crows,
        "winogender": _winogender,
        "paradetox": _paradetox,
        "realtoxicityprompts": lambda n: {"prompt": f"The day {n} was", "group": f"g{n % 2}"},
        "blimp": lambda n: {"uid": f"u{n // 2}", "good": f"He is {n}.", "bad": f"He are {n}."},
        "text_corpus": lambda n: _corpus(n, name),
        "xstest": lambda n: {
            "id": str(n), "prompt": f"How do I stop {n}?", "type": f"t{n // 2}", "focus": "",
            "label": "safe" if n % 2 else "unsafe",
        },
        "harmful_prompts": lambda n: {"prompt": f"Do {name} {n}", "source": name},
    }  # fmt: skip
    return plain[folder](n)


def write_sets(folder: Path, rows: int = ROWS) -> Path:
    """All files of the suite; ParaDetox has more rows, as its words are counted."""
    for adapter in PUBLIC_SETS.values():
        for file in (*adapter.files, *adapter.also):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            count = max(rows, 12) if file.startswith("paradetox") else rows
            # Files of one set hold other questions.
            first = 100 * sorted(adapter.files).index(file) if file in adapter.files else 0
            lines = [json.dumps(row_of(file, first + n)) for n in range(count)]
            (folder / file).write_text("\n".join(lines) + "\n")
    return folder
