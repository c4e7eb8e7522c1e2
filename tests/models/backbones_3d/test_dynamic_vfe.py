"""Encoders without limits on voxels and points: against a dictionary of points, and against the encoders with limits
where these cut nothing.
"""

from collections import defaultdict

import numpy as np
import pytest
import torch
from easydict import EasyDict

from pcdet_focal.models.backbones_3d.vfe import __all__ as encoders
from pcdet_focal.ops.voxelize import voxelize

RANGE, SIZE, GRID = [-4.0, -2.0, -1.0, 4.0, 2.0, 1.0], [0.5, 0.4, 0.25], [16, 10, 8]
PILLAR, PILLARS = [0.5, 0.4, 2.0], [16, 10, 1]
CFG = EasyDict(USE_NORM=True, WITH_DISTANCE=False, USE_ABSLOTE_XYZ=True, NUM_FILTERS=[8, 6])


def points(count=400, seed=0, dtype=np.float32):
    """Three samples' points as rows of batch, x, y, z, intensity, in no order; some outside, one not finite, none of
    sample 1.
    """
    rng = np.random.default_rng(seed)
    rows = np.c_[
        rng.choice([0, 2], count),
        rng.uniform(-4.6, 4.6, count),
        rng.uniform(-2.3, 2.3, count),
        rng.uniform(-1.2, 1.2, count),
        rng.uniform(0, 1, count),
    ]
    rows[7, 1], rows[8, 2] = np.nan, np.inf
    return torch.from_numpy(rows.astype(dtype))


def by_voxel(rows, size, cells):
    """{(batch, x, y(, z)): rows inside}, in ascending order of the key."""
    found = defaultdict(list)
    for row in rows.numpy():
        place = np.floor((row[1 : 1 + len(cells)] - np.float32(RANGE[: len(cells)])) / np.float32(size[: len(cells)]))
        if np.isfinite(place).all() and (place >= 0).all() and (place < cells).all():
            found[(int(row[0]), *place.astype(int).tolist())].append(row)
    return {key: np.array(found[key]) for key in sorted(found)}


def test_voxels_are_the_means_of_their_points():
    rows = points()
    want = by_voxel(rows, SIZE, GRID)
    out = encoders["DynMeanVFE"](
        EasyDict(), 4, voxel_size=SIZE, grid_size=np.array(GRID), point_cloud_range=np.float32(RANGE)
    )({"points": rows, "batch_size": 3})
    assert (
        out["voxel_coords"].tolist() == [[b, z, y, x] for b, x, y, z in want]
        and out["voxel_coords"].dtype == torch.int32
    )
    np.testing.assert_allclose(
        out["voxel_features"].numpy(), [group[:, 1:].mean(0) for group in want.values()], rtol=2e-6, atol=1e-6
    )


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("distance", [True, False])
@pytest.mark.parametrize("name", ["DynPillarVFE", "DynamicPillarVFESimple2D"])
def test_pillars_are_the_maxima_over_their_points(name, absolute, distance):
    cfg = EasyDict(CFG, USE_ABSLOTE_XYZ=absolute, WITH_DISTANCE=distance)
    rows = points(dtype=np.float64)
    torch.manual_seed(0)
    net = (
        encoders[name](cfg, 4, voxel_size=PILLAR, grid_size=np.array(PILLARS), point_cloud_range=np.float32(RANGE))
        .double()
        .eval()
    )
    for layer in net.pfn_layers:
        layer.norm.running_mean.normal_(), layer.norm.running_var.uniform_(0.5, 2)
    out = net({"points": rows, "batch_size": 3})
    want = by_voxel(rows, PILLAR, PILLARS[:2])
    features = []
    for (_, x, y), group in want.items():
        group = torch.from_numpy(group)
        centre = torch.tensor([-4 + (x + 0.5) * 0.5, -2 + (y + 0.5) * 0.4, 0.0], dtype=torch.float64)
        parts = [group[:, 1:] if absolute else group[:, 4:], group[:, 1:4] - centre]
        if name == "DynPillarVFE":
            parts.insert(1, group[:, 1:4] - group[:, 1:4].mean(0))
        else:
            parts.reverse()
        parts += [group[:, 1:4].norm(dim=1, keepdim=True)] if distance else []
        x = torch.cat(parts, dim=1)
        for i, layer in enumerate(net.pfn_layers):
            x = layer.norm(layer.linear(x)).relu()
            best = x.max(dim=0, keepdim=True).values
            x = best if i else torch.cat([x, best.expand_as(x)], dim=1)
        features.append(x[0])
    # 0.4 m is a float32 in OpenPCDet's grid
    torch.testing.assert_close(out["pillar_features"], torch.stack(features), rtol=0, atol=1e-7)
    if name == "DynPillarVFE":
        assert (
            out["voxel_coords"].tolist() == [[b, 0, y, x] for b, x, y in want]
            and out["voxel_features"] is out["pillar_features"]
        )
    else:
        assert out["pillar_coords"].tolist() == [[b, y, x] for b, x, y in want]


def test_pillars_are_those_with_limits_where_these_cut_nothing():
    rows = points(60)
    rows = rows[(rows[:, 0] == 0) & rows.isfinite().all(1)]
    torch.manual_seed(0)
    arguments = dict(
        num_point_features=4, voxel_size=PILLAR, grid_size=np.array(PILLARS), point_cloud_range=np.float32(RANGE)
    )
    limited, free = encoders["PillarVFE"](CFG, **arguments).eval(), encoders["DynPillarVFE"](CFG, **arguments).eval()
    free.load_state_dict(limited.state_dict())
    inside = rows[(rows[:, 3] >= -1) & (rows[:, 3] < 1)]
    voxels, coords, counts = voxelize(inside[:, 1:].numpy(), PILLAR, RANGE, 60, 1000)
    batch = {"voxels": torch.from_numpy(voxels), "voxel_num_points": torch.from_numpy(counts)}
    batch["voxel_coords"] = torch.from_numpy(np.c_[np.zeros(len(coords)), coords].astype(np.int32))
    want, got = limited(batch), free({"points": inside, "batch_size": 1})
    # A padding row of a limited pillar is no point of its own, but its features after the norm count in the maximum.
    order = np.lexsort(coords.T[[1, 2]])
    assert got["voxel_coords"][:, 1:].tolist() == coords[order].tolist()
    assert (got["pillar_features"] <= want["pillar_features"][torch.from_numpy(order)] + 1e-5).all()


@pytest.mark.parametrize("name", ["DynPillarVFE", "DynamicPillarVFESimple2D", "DynMeanVFE"])
def test_no_points(name):
    net = encoders[name](
        CFG, num_point_features=4, voxel_size=PILLAR, grid_size=np.array(PILLARS), point_cloud_range=np.float32(RANGE)
    ).train()
    out = net({"points": torch.zeros(0, 5), "batch_size": 2})
    features = out["voxel_features" if name == "DynMeanVFE" else "pillar_features"]
    assert features.shape == (0, net.get_output_feature_dim())


def test_gradients():
    cfg = EasyDict(CFG, USE_NORM=False, NUM_FILTERS=[6])
    net = encoders["DynPillarVFE"](
        cfg, 4, voxel_size=PILLAR, grid_size=np.array(PILLARS), point_cloud_range=np.float32(RANGE)
    ).double()
    rows = points(40, dtype=np.float64)
    rows = rows[rows.isfinite().all(1)]
    sample, rest = rows[:, :1], rows[:, 1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda r: net({"points": torch.cat([sample, r], dim=1), "batch_size": 3})["pillar_features"], rest, atol=1e-6
    )
