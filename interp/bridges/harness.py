"""A model with a recipe as a model of lm-evaluation-harness, so that any of its tasks can be run on an edit.

    python -m interp.bridges.harness run --model interp --model_args pretrained=organism,recipe=my-recipe --tasks TASK

The command is lm_eval's own, with `interp` among its models. Log-likelihoods are computed in packed passes without
padding, as audits do (`auditing.scoring.likelihoods`). Tokens, windows of long texts and generation are those of the
harness' model `hf`, so that figures can be compared with published ones.

Limitations: one process. What `hf` takes for loading a model otherwise (`peft`, `parallelize`, …) is refused by name.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from interp.auditing.scoring._token_reads import Score, TokenisedItem, TokenRead, read_logprobs
from interp.auditing.scoring.likelihoods import summed_scores
from interp.bridges._edits import recipe_for
from interp.core.errors import InterpError, nearest, note
from interp.core.lazy import optional_class
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.loading import load

_OPTIONS = (
    "batch_size", "max_batch_size", "max_length", "add_bos_token", "prefix_token_id", "enable_thinking",
    "think_end_token", "chat_template_args",
)  # fmt: skip


class HarnessModel(optional_class("lm_eval.models.huggingface:HFLM", "lm-eval")):  # type: ignore[misc]  # at run time
    """A model with a recipe, as lm-evaluation-harness asks models; `--model interp` makes one.

    Args:
        pretrained: What `interp.load` takes, or a `HookedModel`.
        recipe: A recipe, or the folder of one, that runs with hooks. Default: none.
        strength: Factor of the recipe; see `Recipe.scaled`.
        dtype: As in `interp.load`.
        device: As in `interp.load`; the CPU where there is no CUDA.
        adapter: As in `interp.load`.
        options: Those of the harness' `hf`: batch_size (of generation, and windows of long texts), max_batch_size,
            max_length, add_bos_token, prefix_token_id, enable_thinking, think_end_token, chat_template_args.

    Raises:
        InterpError: lm_eval is not installed, there is no such model or recipe, the recipe is of another model, or an
            option is not one of these.

    Example:
        >>> from interp.bridges import HarnessModel
        >>> lm = HarnessModel(model, recipe="my-recipe")  # doctest: +SKIP
        >>> lm_eval.simple_evaluate(lm, tasks=["arc_easy"])  # doctest: +SKIP
    """

    def __init__(
        self,
        pretrained: HookedModel | str | Path,
        recipe: Recipe | str | Path | None = None,
        strength: float = 1.0,
        dtype: str | None = None,
        device: str | None = None,
        adapter: str | Path | None = None,
        **options: Any,
    ):
        for name in options.keys() - {*_OPTIONS}:
            known = (*_OPTIONS, "pretrained", "recipe", "strength", "dtype", "device", "adapter")
            raise InterpError(f"the model interp has no argument {name!r}; {nearest(name, known)}")
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            note(f"there is no {device}, which lm_eval asks for by default; the model runs on the CPU")
            device = None
        self.hooked_model = load(pretrained, dtype=dtype, device=device, adapter=adapter)
        self.recipe = recipe_for(self.hooked_model, recipe, strength)
        super().__init__(self.hooked_model.hf, tokenizer=self.hooked_model.tokenizer, backend="causal", **options)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        contexts: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}  # continuations of one context share its pass
        places = []
        for _, context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                problem = f"a continuation has {len(continuation)} tokens; expected 1 to {self.max_length}"
                raise InterpError(f"{problem}, the longest text of {self.hooked_model.name}")
            row = (*context, *continuation)[-(self.max_length + 1) :]
            start = row[: len(row) - len(continuation)]
            rows = contexts.setdefault(start, {})
            places.append((start, rows.setdefault(row, len(rows))))
        numbers = {context: number for number, context in enumerate(contexts)}
        items = [TokenisedItem(numbers[start], [*map(list, contexts[start])], len(start)) for start in contexts]
        missed: set[tuple[int, int]] = set()

        def read(model: HookedModel, reads: Sequence[TokenRead], inputs: Any, **rest: Any) -> tuple[list[Score], Any]:
            scores, output = read_logprobs(model, reads, inputs, **rest)
            positions = sorted({(each.row, each.column) for each in reads})
            best = dict(zip(positions, output.logits[0].argmax(-1).tolist() if reads else (), strict=True))
            missed.update((x.item.number, x.answer) for x in reads if best[x.row, x.column] != x.token)
            return scores, output

        with torch.no_grad(), self.hooked_model.hooked(self.recipe or ()):
            sums = summed_scores(self.hooked_model, items, read)
        found = [(numbers[start], answer) for start, answer in places]
        results = [(sums[number][answer], (number, answer) not in missed) for number, answer in found]
        for (texts, *_), result in zip(requests, results, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        model = self.hooked_model
        with model.hooked(self.recipe or ()), model.forward_passes.prompted(context.shape[1]):
            return super()._model_generate(context, max_length, stop, **options)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness' results say about the model: the digests of its weights and of the recipe."""
        recipe = {"recipe_digest": self.recipe.digest} if self.recipe else {}
        return super().get_model_info() | {"model_sha": self.hooked_model.digest} | recipe


if find_spec("lm_eval"):
    from lm_eval.api.registry import register_model

    register_model("interp")(HarnessModel)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
