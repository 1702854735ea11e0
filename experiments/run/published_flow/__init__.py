"""A training step as the released code computes it, beside ours: equal numbers, other costs.

Written from the equations; nothing of the published classes is in here. ``towers`` runs whole
rows through every block, ``flows`` has one class per published method, ``cases`` builds our side,
``floor`` counts the arithmetic that is left, and ``compare`` proves equality and takes the times.
"""
