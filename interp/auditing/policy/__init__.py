"""Policy: what an audit must show before an edited model may be released.

In reading order: `schema` (Policy, Tier, Threshold, Allowance), `requirements` (each one checked against an audit),
`evidence` (the newest measurements, and their age), `decision` (allow, deny or inconclusive), `risk_report`, `reviews`
(signed approvals and dissent), `erasure_depth` (what of a removed harm is left below the surface), `sealed` (records
with their SHA-256), `release_gate` (a decision on files), `release.yaml` and `targeted.yaml` (the policies
that are shipped: for a model, and for an edit that removes one harm).

Its public names are at `interp.auditing`.
"""
