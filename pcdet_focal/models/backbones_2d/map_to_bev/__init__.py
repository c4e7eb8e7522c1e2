from ....registry import MAP_TO_BEV
from .height_compression import HeightCompression
from .pointpillar_scatter import PointPillarScatter, PointPillarScatter3d

__all__ = MAP_TO_BEV.add(
    {
        "HeightCompression": HeightCompression,
        "PointPillarScatter": PointPillarScatter,
        "PointPillarScatter3d": PointPillarScatter3d,
    }
)
