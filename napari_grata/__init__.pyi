from .adaptation import adapt as adapt
from .scans import open_scan as open_scan
from .scans import write_mask as write_mask
from .segmenters import list_models as list_models
from .segmenters import load_segmenter as load_segmenter

__version__: str
