"""Patterns in other people's programs: Transformers' models and their configurations."""
