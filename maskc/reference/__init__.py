"""The dense reference: slow and obvious. It reads the un-optimised program, and nothing else computes it."""
