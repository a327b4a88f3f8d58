"""Test-time adaptation: the methods, the one stream of records and the store of a run.

The names are imported when first used; ``settings``, ``records``, ``plan``, ``flags`` and
``shift`` load no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
