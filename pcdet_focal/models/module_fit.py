"""Do the modules of a detector fit each other? Told from the configuration, before any of them is built.

Each entry of ``_FITS`` says of one class what it reads from ``batch_dict``, what it adds, and how the channels and the
size of the map change; docs/design.md has the same as a table. Of a class without an entry (a plug-in), and of one that
overrides the ``forward`` of a class with an entry, nothing is known, and what comes after it is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import MissingKeyError
from ..errors import InputError
from ..registry import BACKBONES_2D, BACKBONES_3D, DENSE_HEADS, MAP_TO_BEV, PFES, POINT_HEADS, ROI_HEADS, VFES
from .backbones_2d import BaseBEVBackbone, BaseBEVBackboneV1, BaseBEVResBackbone
from .backbones_2d.map_to_bev import HeightCompression, PointPillarScatter, PointPillarScatter3d
from .backbones_3d import PillarBackBone8x, PillarRes18BackBone8x, VoxelBackBone8x, VoxelResBackBone8x
from .backbones_3d.vfe import DynamicMeanVFE, DynamicPillarVFE, DynamicPillarVFESimple2D, MeanVFE, PillarVFE
from .dense_heads import AnchorHeadMulti, AnchorHeadSingle, CenterHead

# stage of module_topology -> its section of MODEL, its registry
STAGES = {
    "vfe": ("VFE", VFES),
    "backbone_3d": ("BACKBONE_3D", BACKBONES_3D),
    "map_to_bev_module": ("MAP_TO_BEV", MAP_TO_BEV),
    "pfe": ("PFE", PFES),
    "backbone_2d": ("BACKBONE_2D", BACKBONES_2D),
    "dense_head": ("DENSE_HEAD", DENSE_HEADS),
    "point_head": ("POINT_HEAD", POINT_HEADS),
    "roi_head": ("ROI_HEAD", ROI_HEADS),
}


@dataclass(frozen=True)
class Given:
    """What the modules so far give; None where it is not known."""

    keys: frozenset[str] | None  # of batch_dict
    grid: tuple[int, int, int]  # voxels along x, y, z
    num_point_features: int
    box_size: int | None = None  # columns of a ground-truth box without its class
    channels: int | None = None  # of the voxel features, then of a layer of the encoded tensor, then of the map
    depth: int | None = None  # layers of the encoded tensor
    size: tuple[int, int] | None = None  # cells of the last map along x, y

    def unknown(self) -> Given:
        """What is left to say after a module that nothing is known of."""
        return Given(None, self.grid, self.num_point_features, self.box_size)


def check_modules(model_cfg, given: Given, stages: Sequence[str]) -> Given:
    """Go through the modules of a configuration in order and return what they give together.

    Args:
        model_cfg: MODEL of a configuration.
        given: what the data set gives.
        stages: names of ``module_topology`` that the detector builds from their sections.

    Raises:
        InputError: a module needs what those before it do not give, with the key path and what to write there.
    """
    for stage, (section, registry) in STAGES.items():
        cfg = model_cfg.get(section)
        if cfg is None:
            continue
        cls = registry[cfg.NAME]
        fit = _fit_of(cls) if stage in stages else None
        try:
            given = given.unknown() if fit is None else fit(cfg, f"MODEL.{section}", given)
        except MissingKeyError:  # the module says so, with its name, when it is built
            given = given.unknown()
    return given


_Fit = Callable[[Any, str, Given], Given]
_FITS: dict[type, _Fit] = {}


def _fit_of(cls: Any) -> _Fit | None:
    base = next((base for base in getattr(cls, "__mro__", ()) if base in _FITS), None)
    return _FITS[base] if base is not None and cls.forward is base.forward else None


def _register(*classes: type, reads: Sequence[str], adds: Sequence[str]) -> Callable[[_Fit], _Fit]:
    """Enter a function for ``classes``, behind a check of the keys that they read from ``batch_dict``."""

    def decorate(function: _Fit) -> _Fit:
        def fit(cfg: Any, path: str, given: Given) -> Given:
            if given.keys is not None:
                missing = [key for key in reads if key not in given.keys]
                if missing:
                    raise InputError(
                        f"{path}.NAME: {cfg.NAME} reads {', '.join(missing)}, which no module before it gives; "
                        f"there are {', '.join(sorted(given.keys))}"
                    )
            after = function(cfg, path, given)
            return after if after.keys is None else replace(after, keys=after.keys | set(adds))

        _FITS.update(dict.fromkeys(classes, fit))
        return function

    return decorate


def _same(path: str, value: Any, needed: int | None, reason: str) -> None:
    if needed is not None and value != needed:
        raise InputError(f"{path}: {value} must be {needed}, because {reason}")


# ---- encoders of voxels


@_register(MeanVFE, reads=("voxels", "voxel_num_points"), adds=("voxel_features",))
@_register(DynamicMeanVFE, reads=("points",), adds=("voxel_features", "voxel_coords"))
def _mean(cfg: Any, path: str, given: Given) -> Given:
    return replace(given, channels=given.num_point_features)


@_register(PillarVFE, reads=("voxels", "voxel_num_points", "voxel_coords"), adds=("pillar_features",))
@_register(DynamicPillarVFE, reads=("points",), adds=("pillar_features", "voxel_features", "voxel_coords"))
@_register(DynamicPillarVFESimple2D, reads=("points",), adds=("pillar_features", "pillar_coords"))
def _pillars(cfg: Any, path: str, given: Given) -> Given:
    return replace(given, channels=list(cfg.NUM_FILTERS)[-1] if cfg.NUM_FILTERS else None)


# ---- 3-D backbones


def _halved(cells: int, times: int = 1, padding: int = 1) -> int:
    """Cells after convolutions of size 3 and stride 2."""
    for _ in range(times):
        cells = (cells + 2 * padding - 3) // 2 + 1
    return cells


@_register(
    VoxelBackBone8x,
    VoxelResBackBone8x,
    reads=("voxel_features", "voxel_coords"),
    adds=("encoded_spconv_tensor", "encoded_spconv_tensor_stride", "multi_scale_3d_features", "multi_scale_3d_strides"),
)
def _voxels_8x(cfg: Any, path: str, given: Given) -> Given:
    nx, ny, nz = given.grid
    last_pad = cfg.get("last_pad", 0)
    depth = _halved(_halved(nz + 1, 2), padding=0)
    depth = _halved(depth, padding=last_pad) if isinstance(last_pad, int) else None
    return replace(given, channels=128, depth=depth, size=(_halved(nx, 3), _halved(ny, 3)))


@_register(
    PillarBackBone8x,
    PillarRes18BackBone8x,
    reads=("pillar_features", "pillar_coords"),
    adds=("multi_scale_2d_features", "multi_scale_2d_strides"),
)
def _pillars_8x(cfg: Any, path: str, given: Given) -> Given:
    _same("MODEL.VFE.NUM_FILTERS, the last", given.channels, 32, f"{cfg.NAME} takes 32 channels")
    nx, ny, _ = given.grid
    return replace(given, channels=256, size=(_halved(nx, 3), _halved(ny, 3)))


# ---- to the bird's-eye map


@_register(
    HeightCompression,
    reads=("encoded_spconv_tensor", "encoded_spconv_tensor_stride"),
    adds=("spatial_features", "spatial_features_stride"),
)
def _height(cfg: Any, path: str, given: Given) -> Given:
    if given.channels is not None and given.depth is not None:
        if given.depth < 1:
            raise InputError(
                f"DATA_CONFIG.DATA_PROCESSOR VOXEL_SIZE: {given.grid[2]} voxels of height leave no layer after "
                "MODEL.BACKBONE_3D; take lower voxels"
            )
        _same(
            f"{path}.NUM_BEV_FEATURES",
            cfg.NUM_BEV_FEATURES,
            given.channels * given.depth,
            f"the {given.grid[2]} voxels of height leave {given.depth} layers of {given.channels} channels",
        )
    return replace(given, channels=cfg.NUM_BEV_FEATURES)


@_register(PointPillarScatter, reads=("pillar_features", "voxel_coords"), adds=("spatial_features",))
def _scatter(cfg: Any, path: str, given: Given) -> Given:
    reason = "so many channels has a pillar of MODEL.VFE"
    _same(f"{path}.NUM_BEV_FEATURES", cfg.NUM_BEV_FEATURES, given.channels, reason)
    return replace(given, channels=cfg.NUM_BEV_FEATURES, size=given.grid[:2])


@_register(PointPillarScatter3d, reads=("pillar_features", "voxel_coords"), adds=("spatial_features",))
def _scatter_layers(cfg: Any, path: str, given: Given) -> Given:
    nx, ny, nz = cfg.INPUT_SHAPE
    needed = None if given.channels is None else given.channels * nz
    _same(f"{path}.NUM_BEV_FEATURES", cfg.NUM_BEV_FEATURES, needed, f"each of {nz} layers has the channels of a pillar")
    return replace(given, channels=cfg.NUM_BEV_FEATURES, size=(nx, ny))


# ---- 2-D backbones


def _resampled(cells: int, stride: float) -> int:
    return cells * int(stride) if stride >= 1 else cells // round(1 / stride)


def _pyramid_size(cfg: Any, path: str, size: tuple[int, int]) -> tuple[int, int]:
    """The size of the map that a BaseBEVBackbone of this configuration makes of one of ``size``."""
    strides, up_strides = (list(cfg.get(key) or []) for key in ("LAYER_STRIDES", "UPSAMPLE_STRIDES"))
    if not strides:
        return size
    sizes = []
    for level, stride in enumerate(strides):
        size = tuple((cells - 1) // stride + 1 for cells in size)
        up = up_strides[level] if level < len(up_strides) else 1
        sizes.append(tuple(_resampled(cells, up) for cells in size))
    if len(set(sizes)) > 1:
        raise InputError(
            f"{path}.UPSAMPLE_STRIDES: its levels give maps of {', '.join(f'{nx} x {ny}' for nx, ny in sizes)} cells "
            "(x, y), and only equal ones can be joined; change LAYER_STRIDES or UPSAMPLE_STRIDES, or "
            "DATA_CONFIG.POINT_CLOUD_RANGE so that the number of voxels is a multiple of all strides together"
        )
    last = up_strides[-1] if len(up_strides) > len(strides) else 1
    return tuple(_resampled(cells, last) for cells in sizes[0])


@_register(BaseBEVBackbone, BaseBEVResBackbone, reads=("spatial_features",), adds=("spatial_features_2d",))
def _pyramid(cfg: Any, path: str, given: Given) -> Given:
    channels = sum(cfg.get("NUM_UPSAMPLE_FILTERS") or cfg.get("NUM_FILTERS") or []) or given.channels
    size = None if given.size is None else _pyramid_size(cfg, path, given.size)
    return replace(given, channels=channels, size=size)


@_register(BaseBEVBackboneV1, reads=("multi_scale_2d_features",), adds=("spatial_features_2d",))
def _neck(cfg: Any, path: str, given: Given) -> Given:
    for level, width in enumerate(cfg.NUM_FILTERS):
        reason = f"so many channels has x_conv{level + 4} of MODEL.BACKBONE_3D"
        _same(f"{path}.NUM_FILTERS[{level}]", width, given.channels, reason)
    if given.size is None:
        return replace(given, channels=sum(cfg.NUM_UPSAMPLE_FILTERS))
    maps = (given.size, tuple(_halved(cells) for cells in given.size))  # x_conv4, x_conv5
    sizes = [tuple(_resampled(cells, stride) for cells in size) for size, stride in zip(maps, cfg.UPSAMPLE_STRIDES)]
    if len(set(sizes)) > 1:
        raise InputError(
            f"{path}.UPSAMPLE_STRIDES: {list(cfg.UPSAMPLE_STRIDES)} make maps of "
            f"{', '.join(f'{nx} x {ny}' for nx, ny in sizes)} cells (x, y), and only equal ones can be joined; the "
            "maps before have stride 8 and 16"
        )
    return replace(given, channels=sum(cfg.NUM_UPSAMPLE_FILTERS), size=sizes[0])


# ---- heads


def _check_stride(path: str, stride: int, grid: Sequence[int], size: Sequence[int], round_up: bool) -> None:
    """Whether a map of ``size`` has one cell every ``stride`` voxels; ``round_up``: the last one may be cut."""

    def fits(stride: int) -> bool:
        return all(
            cells == voxels // stride or round_up and cells == -(-voxels // stride) for voxels, cells in zip(grid, size)
        )

    if stride >= 1 and fits(stride):
        return
    strides = [other for other in range(1, max(grid) + 1) if fits(other)]
    exact = [other for other in strides if all(other * cells == voxels for voxels, cells in zip(grid, size))]
    right = next(iter(exact or strides), None)
    remedy = (
        f"write {right}"
        if right is not None
        else "change DATA_CONFIG.POINT_CLOUD_RANGE so that the number of voxels is a multiple of the strides"
    )
    raise InputError(
        f"{path}: {stride} does not fit; the grid has {grid[0]} x {grid[1]} voxels (x, y) and the head's map "
        f"{size[0]} x {size[1]} cells: {remedy}"
    )


def _check_box_size(path: str, needed: int, given: Given) -> None:
    if given.box_size is not None and needed > given.box_size:
        raise InputError(
            f"{path}: {needed} columns of a box are predicted, and the data set's boxes have {given.box_size} (x, y, "
            "z, dx, dy, dz, heading" + (", vx, vy)" if given.box_size > 7 else ")")
        )


def _anchor_map(cfg: Any, path: str, given: Given, class_name: str) -> tuple[int, int]:
    for index, head in enumerate(cfg.get("RPN_HEAD_CFGS") or ()):
        if class_name in head.get("HEAD_CLS_NAME", ()):
            return _pyramid_size(head, f"{path}.RPN_HEAD_CFGS[{index}]", given.size)
    return given.size


@_register(
    AnchorHeadSingle,
    AnchorHeadMulti,
    reads=("spatial_features_2d",),
    adds=("batch_cls_preds", "batch_box_preds", "cls_preds_normalized"),
)
def _anchors(cfg: Any, path: str, given: Given) -> Given:
    for index, entry in enumerate(cfg.ANCHOR_GENERATOR_CONFIG if given.size is not None else ()):
        size = _anchor_map(cfg, path, given, entry.class_name) if cfg.NAME == "AnchorHeadMulti" else given.size
        key = f"{path}.ANCHOR_GENERATOR_CONFIG[{index}].feature_map_stride"
        _check_stride(key, entry.feature_map_stride, given.grid[:2], size, round_up=False)
    coder = cfg.TARGET_ASSIGNER_CONFIG.get("BOX_CODER_CONFIG", {})
    _check_box_size(f"{path}.TARGET_ASSIGNER_CONFIG.BOX_CODER_CONFIG.code_size", coder.get("code_size", 7), given)
    return given


@_register(CenterHead, reads=("spatial_features_2d",), adds=("final_box_dicts",))
def _centers(cfg: Any, path: str, given: Given) -> Given:
    if given.size is not None:
        key = f"{path}.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE"
        _check_stride(key, cfg.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE, given.grid[:2], given.size, round_up=True)
    order = cfg.SEPARATE_HEAD_CFG.HEAD_ORDER
    _check_box_size(f"{path}.SEPARATE_HEAD_CFG.HEAD_ORDER", 9 if "vel" in order else 7, given)
    return given
