"""Audits: behaviours measured before and after an edit, and a decision under a written policy."""
