"""One run: build everything from a configuration, train, evaluate, and record the outcome.

``experiment.py`` declares every choice of a run, ``protocols.py`` what training and selection may
see and what is scored. ``runtime.py`` decides device and precision, ``data_inputs.py`` reads what a
run needs, ``image_source.py`` provides its images as features or pixels, and ``run.py`` puts them
together. ``standalone.py`` runs one configuration outside a study, ``checkpoint_import.py`` makes a
run of a published checkpoint. ``registered.py`` registers all that a run can name.
"""
