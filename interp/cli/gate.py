"""The verb `interp gate`, and what `interp export --require` shares with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.core.display import print_values
from interp.core.errors import InterpError

Json = Annotated[bool, typer.Option("--json", help="one JSON value on standard output")]
Safeguard = Annotated[
    list[str] | None,
    typer.Option("--safeguard", help="one that is in place, by the policy's name for it; may be repeated"),
]
PolicyName = Annotated[str, typer.Option(help="a policy (YAML), or release, the one that is shipped")]
CODES = {"allow": 0, "deny": 1, "inconclusive": 2}


def gate(
    file: Annotated[Path, typer.Argument(help="an audit written by interp audit")],
    policy: PolicyName,
    checkpoint: Annotated[Path | None, typer.Option(help="the checkpoint to be released: is the audit of it?")] = None,
    safeguard: Safeguard = None,
    as_json: Json = False,
) -> None:
    """Put an audit to a policy: exit code 0 to allow, 1 to deny, 2 if inconclusive."""
    from interp.auditing.policy.release_gate import gate as decide

    decision = decide(file, policy, checkpoint, safeguard or [])
    show(decision, as_json)
    raise typer.Exit(CODES[decision.outcome])


def require(audit: Path | None, policy: str | None, safeguards: list[str] | None, recipe: Any, as_json: bool) -> Any:
    """The release of a recipe, or an end with the reasons why not and the decision's exit code."""
    from interp.auditing.policy.release_gate import decide_release
    from interp.auditing.policy.release_gate import gate as decide
    from interp.auditing.policy.schema import Policy

    if audit is None or policy is None:
        raise InterpError("--require, --policy and --safeguard go together; give the audit and the policy")
    rules = Policy.of_name(policy)
    decision = decide(audit, rules, None, safeguards or [], recipe)
    if not decision.allow:
        show(decision, as_json)
        raise typer.Exit(CODES[decision.outcome])
    return decide_release(audit, rules, decision)


def show(decision: Any, as_json: bool) -> None:
    """Each reason, and the outcome."""
    if as_json:
        print_values(True, decision.to_json())
        return
    for reason in decision.reasons:
        print(reason)
    for note in decision.notes:
        print(f"{'':<8} {note}")
    print(decision.outcome + (f" (tier {decision.tier})" if decision.tier else ""))
