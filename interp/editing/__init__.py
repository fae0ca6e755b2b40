"""Editing: a recipe folded into weights, the folder that transformers loads, the certificate that both agree."""
