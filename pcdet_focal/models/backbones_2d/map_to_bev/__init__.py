from ....registry import MAP_TO_BEV
from .height_compression import HeightCompression
from .pointpillar_scatter import PointPillarScatter

__all__ = MAP_TO_BEV.add({"HeightCompression": HeightCompression, "PointPillarScatter": PointPillarScatter})
