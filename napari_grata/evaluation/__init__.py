"""Labelled cohorts: how well does each method do against the truth, centre by centre?

Labels are read here and nowhere else: they never reach an adaptation step.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
