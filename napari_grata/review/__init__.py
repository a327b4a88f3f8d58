"""Look at what adaptation did: differences, areas and volumes, flags, figures, cases, decisions.

Names are imported when first used; nothing here loads torch or Qt.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
