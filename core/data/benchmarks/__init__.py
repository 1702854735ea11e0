"""The fifteen image datasets of the prompt-tuning literature, in their established layout on disk.

The row of a dataset in ``definitions.py`` states where its files are and which of four kinds of
layout it has; the module of that kind reads it:

* ``class_folders.py``: caltech101, food101, dtd, eurosat: a split file, or else a created 50/20/30
  split of the class folders.
* ``official_lists.py``: oxford_pets, stanford_cars, oxford_flowers, sun397, ucf101: a split file,
  or else the official lists; fgvc_aircraft: always the official lists.
* ``imagenet.py``: imagenet and its four variants.

``read_benchmark.py`` combines them, ``image_tree.py`` lists the disk (with an index in the cache),
``split_creation.py`` creates an absent split, ``published.py`` holds what was published. The rules
are those of CoOp (K. Zhou et al., arXiv:2109.01134 and arXiv:2203.05557) at commit ff61507, except
that the names in a folder are always sorted, that nothing is written below the data root, and that
invalid data that it accepts silently is an error here.
"""
