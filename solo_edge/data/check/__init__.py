"""Finding all defects of a data set in one pass, and writing a clean copy."""

from solo_edge.data.check.checking import CheckedSplit, Report, check_dataset
from solo_edge.data.check.cleaning import write_clean_copy

__all__ = ["CheckedSplit", "Report", "check_dataset", "write_clean_copy"]
