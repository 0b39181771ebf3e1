"""Plans in other token orders equal brute force, permuted."""
