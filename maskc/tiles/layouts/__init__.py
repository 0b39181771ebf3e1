"""Token orders: digits of positions, how a mask falls apart into them, and the tiles of products of digits."""
