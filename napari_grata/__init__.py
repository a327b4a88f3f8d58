"""napari-grata: adapt a segmentation model to scans from a new centre, and see it happen.

The public names are imported when first used, so that importing the package loads neither
torch nor Qt.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
