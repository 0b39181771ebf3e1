"""Orders of the tokens that make tiles dense.

``suggest`` reads from a mask which orders may be good, with ``search`` for the shapes of blocks of a grid; ``relaid``
finds the tiles in an order. For blocks that is done without looking at tokens: ``digits`` are those of positions,
``separate`` takes a mask apart into conditions on single digits, ``tables`` holds these, ``kinds`` reads the kinds of
tiles from them, and ``orders`` puts the tiles of all segments together.
"""
