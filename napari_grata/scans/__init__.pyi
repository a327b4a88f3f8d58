from .files import FileError
from .from_layer import scan_from_array
from .geometry import Geometry
from .masks import read_mask, write_mask
from .readers import open_scan
from .scan import Scan, ScanError

__all__ = [
    "FileError",
    "Geometry",
    "Scan",
    "ScanError",
    "open_scan",
    "read_mask",
    "scan_from_array",
    "write_mask",
]
