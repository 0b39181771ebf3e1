"""The intermediate representation: interned typed expressions, and what they mean."""
