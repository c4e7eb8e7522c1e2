from ....registry import VFES
from .dynamic_mean_vfe import DynamicMeanVFE
from .dynamic_pillar_vfe import DynamicPillarVFE, DynamicPillarVFESimple2D
from .mean_vfe import MeanVFE
from .pillar_vfe import PillarVFE
from .vfe_template import VFETemplate

__all__ = VFES.add(
    {
        "VFETemplate": VFETemplate,
        "MeanVFE": MeanVFE,
        "PillarVFE": PillarVFE,
        "DynMeanVFE": DynamicMeanVFE,
        "DynPillarVFE": DynamicPillarVFE,
        "DynamicPillarVFESimple2D": DynamicPillarVFESimple2D,
    }
)
