"""Source segmenters: model cards, networks, loading, preprocessing and prediction.

Names are imported when first used: a card or the list of models needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
