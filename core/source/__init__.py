"""The source code behind a class: a hash of its definition and of all that it calls in the project.

``syntax.py`` writes code as canonical text and finds the names that it reads, ``module.py`` takes a
file apart into its top-level definitions, ``tree.py`` follows names from one to the next,
``changes.py`` says what differs. Nothing is imported: files are parsed. Standard library only.
"""
