"""Foundations every stage stands on: errors, config, files, hashes, linear algebra, progress, display."""
