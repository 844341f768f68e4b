"""Ids that persist from frame to frame, and how well they do."""

from solo_edge.tracking.identity_metrics import IdentityMetrics, IdentityScores
from solo_edge.tracking.mask_tracker import PATIENCE_S, MaskTracker

__all__ = ["PATIENCE_S", "IdentityMetrics", "IdentityScores", "MaskTracker"]
