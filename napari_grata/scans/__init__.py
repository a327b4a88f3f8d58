"""Read and write scans and masks, with their geometry. Neither torch, Qt nor napari in here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
