"""Audits of chosen days, keys of reviewers, and the reports that they make."""

from datetime import date, timedelta
from types import SimpleNamespace

import audit_rows

from interp.auditing.policy.schema import Policy

DAY, AGE = date(2026, 3, 1), 90
POLICY = Policy(
    name="reviewed",
    target="toxicity",
    required=("refusal",),
    evidence_days_at_most=AGE,
    report_days_at_most=AGE,
    report_required=True,
    signatures_at_least=2,
)
BOTH = ("toxicity", "refusal")


def saved_audit(file, toxic=0.0, age=0, behaviours=BOTH, digest="0" * 64, recipe="5" * 64):
    """The file of an audit of a day before DAY."""
    n, model = 200, SimpleNamespace(identity=audit_rows.MODEL.model_copy(update={"digest": digest}))
    after = {"toxicity": [float(i < toxic * n) for i in range(n)], "refusal": [1.0] * n}
    kinds = {"toxicity": "harm", "refusal": "protected"}
    scored = [(name, kinds[name], "rate", [1.0] * n, after[name]) for name in behaviours]
    audit_rows.audit_of(scored, model, None, recipe, DAY - timedelta(age)).save(file)
    return file


def key_pair(folder, name):
    """Files of a new private key and of its public one."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key, files = ec.generate_private_key(ec.SECP256R1()), (folder / f"{name}.key", folder / f"{name}.pub")
    files[0].write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    files[1].write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return files
