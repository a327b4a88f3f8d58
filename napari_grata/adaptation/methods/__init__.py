"""The adaptation methods, one a file: one step on one batch, all behind the same interface.

The names are imported when first used; ``register`` loads no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
