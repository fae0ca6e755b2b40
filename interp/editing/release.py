"""Release: the decision that let an export go out, as the manifest and the model card tell it.

It is made by whoever decides (`interp.auditing.release`) and holds for one recipe on one base model. What it does not
know: whether the audit still says so. It names the audit and the policy by their SHA-256.
"""

from pydantic import Field

from interp.core.config import Config
from interp.core.errors import InterpError
from interp.editing.plan import MEANS, Status
from interp.models.reference import ModelReference


class Release(Config):
    """What was decided, on what.

    `base` is the digest of the model's weights before the edit, `settings` that of what else decides its output.
    `section` is for the model card: Markdown, not kept in the manifest.
    """

    outcome: str
    tier: str = ""
    policy: str
    policy_sha256: str
    audit_sha256: str
    base: str
    settings: str = ""
    recipe: str
    reasons: tuple[str, ...] = Field((), strict=False)
    safeguards: tuple[str, ...] = Field((), strict=False)
    section: str = Field("", exclude=True)

    def check(self, recipe: str, base: ModelReference, status: Status) -> None:
        """Raise unless it lets this recipe's exact fold into this model go out."""
        if self.outcome != "allow":
            raise InterpError(f"the policy's decision is {self.outcome!r}; only what is allowed is exported")
        if self.recipe != recipe:
            raise InterpError(
                f"the decision is on recipe {self.recipe[:12] or 'unknown'}, but this one is {recipe[:12]}: can't "
                "tell; audit this recipe"
            )
        if self.base != base.digest:
            raise InterpError(
                f"the decision is on a model with weights {self.base[:12]}, but {base.name} has weights "
                f"{base.digest[:12]}: can't tell; audit the recipe on this model"
            )
        if self.settings != base.settings:
            raise InterpError(
                f"the decision is on a model with settings {self.settings[:12] or 'unknown'} (config, tokenizer, chat "
                f"template), but {base.name} has {base.settings[:12]}: can't tell; audit the recipe on this model"
            )
        if status != "exact":
            raise InterpError(
                f"the recipe folds into this model {MEANS[status]}, so what was audited is not what would be written: "
                "can't tell; export without --require, audit that checkpoint, and put it to interp gate --checkpoint"
            )
