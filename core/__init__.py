"""The foundation: nothing here knows methods, studies or reports.

``store`` defines every file below ``runs/``, ``config`` reads configurations and builds objects
from them, ``clip`` is the frozen two-tower model, ``data`` reads datasets and draws few-shot
images, ``train`` trains and evaluates one model, and ``mosaic`` is the embedded benchmark.
``interfaces.py`` declares what a base method, a refiner and a loss term are, ``types.py`` the
values that they exchange.
"""
