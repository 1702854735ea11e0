"""Mosaic: the embedded benchmark. A drawn world, six data sets, four shifts and a mini CLIP trained
on it.
"""
