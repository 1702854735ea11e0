"""What every registered class must fulfil, whoever wrote it: the checks of the test suite, which
``check-plugin`` runs on classes from elsewhere.

``tiny_model.py`` is the random CLIP that they use; ``methods.py`` has the checks of base methods,
``parts.py`` those of refiners and their parts, ``plugin.py`` runs them over a plug-in.
"""
