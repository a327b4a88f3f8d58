from .files import FileError as FileError
from .from_layer import scan_from_array as scan_from_array
from .masks import read_mask as read_mask
from .masks import write_mask as write_mask
from .readers import open_scan as open_scan
from .scan import Scan as Scan
from .scan import ScanError as ScanError
