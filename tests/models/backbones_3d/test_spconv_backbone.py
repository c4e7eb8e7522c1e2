"""The sparse encoders against recorded numbers of OpenPCDet."""

import json
import zlib

import numpy as np
import pytest
import torch
from golden_data import KITTI_SAMPLE, assert_matches_samples, cases, needs_golden, needs_kitti_sample, record

from pcdet_focal.errors import InputError
from pcdet_focal.models.backbones_3d import __all__ as backbones
from pcdet_focal.models.backbones_3d.spconv_backbone import SparseBasicBlock, post_act_block
from pcdet_focal.ops import sparse_conv as sc
from pcdet_focal.utils.spconv_utils import find_all_spconv_keys, replace_feature, spconv

VOXELS, PILLARS = ("VoxelBackBone8x", "VoxelResBackBone8x"), ("PillarBackBone8x", "PillarRes18BackBone8x")
RANGE, SIZE, GRID = (
    np.array([0, -40, -3, 70.4, 40, 1], np.float32),
    np.array([0.05, 0.05, 0.1], np.float32),
    np.array([1408, 1600, 40]),
)


def recorded_weights(net, prefix="backbone_3d."):
    """The deterministic weights with which the numbers were recorded."""
    state = net.state_dict()
    for key, value in state.items():
        if not value.is_floating_point():
            continue
        z = np.random.default_rng(zlib.crc32((prefix + key).encode())).standard_normal(tuple(value.shape))
        if key.endswith("running_var"):
            w = 1 + np.abs(0.05 * z)
        elif value.dim() >= 2:
            w = 1.6 * z * np.sqrt(2 / np.prod(value.shape[1:]))
        elif key.endswith(".weight"):
            w = 1 + 0.05 * z
        else:
            w = 0.05 * z
        state[key] = torch.from_numpy(w).to(value.dtype)
    net.load_state_dict(state)
    return net


def frame_points(frame):
    """Points of a frame in the camera's field of view, in file order."""
    points = np.fromfile(KITTI_SAMPLE / f"training/velodyne/{frame}.bin", np.float32).reshape(-1, 4)
    height, width = json.loads((KITTI_SAMPLE / "image_shapes.json").read_text())[frame]
    lines = (KITTI_SAMPLE / f"training/calib/{frame}.txt").read_text().splitlines()
    calib = {line.split(":")[0]: np.array(line.split(":")[1].split(), np.float32) for line in lines if ":" in line}
    p2, r0, tr = calib["P2"].reshape(3, 4), calib["R0_rect"].reshape(3, 3), calib["Tr_velo_to_cam"].reshape(3, 4)
    one = np.ones((len(points), 1), np.float32)
    uvw = np.hstack([np.hstack([points[:, :3], one]) @ (tr.T @ r0.T), one]) @ p2.T
    rect_z = (np.hstack([points[:, :3], one]) @ (tr.T @ r0.T))[:, 2]
    u, v = uvw[:, 0] / rect_z, uvw[:, 1] / rect_z
    return points[(u >= 0) & (u < width) & (v >= 0) & (v < height) & (uvw[:, 2] - p2.T[3, 2] >= 0)]


def mean_voxels(points, max_points=5):
    """(mean of the first five points of each voxel, (z, y, x)), voxels in the order of their first point."""
    cell = np.floor((points[:, :3] - RANGE[:3]) / SIZE).astype(np.int64)
    inside = np.all((cell >= 0) & (cell < GRID), 1) & (points[:, :2] <= RANGE[3:5]).all(1)
    points, cell = points[inside], cell[inside]
    voxels: dict = {}
    for point, where in zip(points, map(tuple, cell)):
        rows = voxels.setdefault(where, [])
        if len(rows) < max_points:
            rows.append(point)
    means = np.stack([np.sum(rows, 0, dtype=np.float32) / np.float32(len(rows)) for rows in voxels.values()])
    return torch.from_numpy(means), torch.tensor(list(voxels), dtype=torch.int32).flip(1)


def batch_of(frames):
    parts = [mean_voxels(frame_points(frame)) for frame in frames]
    coords = [torch.cat([torch.full((len(c), 1), b, dtype=torch.int32), c], 1) for b, (_, c) in enumerate(parts)]
    return {
        "voxel_features": torch.cat([f for f, _ in parts]),
        "voxel_coords": torch.cat(coords),
        "batch_size": len(frames),
    }


def test_keys_and_shapes_are_openpcdets():
    recorded = json.loads(record("04_state_dicts/kitti_models__second.json").read_text())["state_dict"]
    want = {k.split(".", 1)[1]: tuple(v[0]) for k, v in recorded.items() if k.startswith("backbone_3d.")}
    net = backbones["VoxelBackBone8x"]({}, 4, GRID)
    assert [(k, tuple(v.shape)) for k, v in net.state_dict().items()] == list(want.items())
    assert {k for k in want if len(want[k]) == 5} == find_all_spconv_keys(net)
    assert {f"backbone_3d.{k}" for k in find_all_spconv_keys(net)} == find_all_spconv_keys(net, prefix="backbone_3d")


@pytest.mark.parametrize("file", ["nuscenes_models__cbgs_second_multihead", "waymo_models__centerpoint"])
def test_keys_and_shapes_of_the_residual_encoder_are_openpcdets(file):
    recorded = json.loads(record(f"04_state_dicts/{file}.json").read_text())
    want = {k.split(".", 1)[1]: tuple(v[0]) for k, v in recorded["state_dict"].items() if k.startswith("backbone_3d.")}
    config = {} if any(k.endswith("conv1.0.conv1.bias") for k in want) else {"USE_BIAS": False}
    net = backbones["VoxelResBackBone8x"](config, want["conv_input.0.weight"][-1], recorded["grid_size"])
    assert [(k, tuple(v.shape)) for k, v in net.state_dict().items()] == list(want.items())


@needs_golden
@needs_kitti_sample
@pytest.mark.parametrize("case", ["f000000", "b2_000000_000001"])
def test_a_real_frame_gives_the_recorded_numbers(case):
    recorded = cases("05_forward/second_eval.npz")[case]
    batch = batch_of(["000000", "000001"] if case.startswith("b2") else ["000000"])
    assert len(batch["voxel_coords"]) == int(recorded["n_voxels"])
    assert_matches_samples(batch["voxel_features"], recorded, "vfe_out", rtol=1e-5, atol=1e-5)
    net = recorded_weights(backbones["VoxelBackBone8x"]({}, 4, GRID)).eval()
    with torch.no_grad():
        out = net(batch)
    encoded = out["encoded_spconv_tensor"]
    assert (
        encoded.spatial_shape == [2, 200, 176]
        and out["encoded_spconv_tensor_stride"] == 8
        and net.num_point_features == 128
    )
    assert np.array_equal(encoded.indices.numpy(), recorded["encoded_spconv_indices_sorted"])
    for name, x in out["multi_scale_3d_features"].items():
        assert x.features.shape == tuple(recorded[f"{name}__n"]) and x.features.shape[1] == net.backbone_channels[name]
        assert x.spatial_shape == recorded[f"{name}__spatial_shape"].tolist()
        total, absolute = float(x.features.double().sum()), float(x.features.double().abs().sum())
        assert absolute == pytest.approx(float(recorded[f"{name}__abssum"]), rel=1e-5)
        assert total == pytest.approx(float(recorded[f"{name}__sum"]), abs=1e-5 * absolute)
    assert out["multi_scale_3d_strides"] == {"x_conv1": 1, "x_conv2": 2, "x_conv3": 4, "x_conv4": 8}
    scale = max(
        abs(float(recorded["encoded_spconv_features__max"])), abs(float(recorded["encoded_spconv_features__min"]))
    )
    assert_matches_samples(encoded.features, recorded, "encoded_spconv_features", rtol=1e-4, atol=1e-4 * scale)
    scale = max(abs(float(recorded["spatial_features__max"])), 1e-6)
    assert_matches_samples(encoded.dense().flatten(1, 2), recorded, "spatial_features", rtol=1e-4, atol=1e-4 * scale)


def small_batch(dtype, width=4, empty=()):
    rng = np.random.default_rng(0)
    places = [np.stack(np.unravel_index(rng.permutation(16 * 40 * 48)[:300], (16, 40, 48)), 1) for _ in range(3)]
    cells = np.concatenate([np.concatenate([np.full((300, 1), b), places[b]], 1) for b in range(3) if b not in empty])
    features = torch.from_numpy(rng.standard_normal((len(cells), width)))
    return {
        "voxel_features": features.to(dtype),
        "voxel_coords": torch.from_numpy(cells.astype(np.int32)),
        "batch_size": 3,
    }


def dense_twin(conv, x, mask):
    """The dense convolution of a sparse layer, zero outside ``mask`` (submanifold) or outside the cells that an input
    reaches.
    """
    weight = conv.weight.movedim(-1, 1)
    convolve = torch.nn.functional.conv3d if conv.ndim == 3 else torch.nn.functional.conv2d
    if conv.subm:
        return convolve(x, weight, conv.bias, padding=1) * mask, mask
    mask = convolve(mask, torch.ones_like(weight[:1, :1]), None, conv.stride, conv.padding) > 0
    return convolve(x, weight, conv.bias, conv.stride, conv.padding) * mask, mask.to(x.dtype)


def dense_norm(norm, x, mask):
    shape = (1, -1, *[1] * (x.dim() - 2))
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return ((x - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)) * mask


def dense_stages(stages, sparse):
    """What the sparse ``stages`` make of a tensor, computed with dense convolutions; one dense map a stage."""
    x, mask = sparse.dense(), sparse.replace_feature(torch.ones_like(sparse.features[:, :1])).dense()

    def walk(module, x, mask):
        if isinstance(module, SparseBasicBlock):
            y, _ = dense_twin(module.conv1, x, mask)
            y = dense_norm(module.bn1, y, mask).relu()
            y, _ = dense_twin(module.conv2, y, mask)
            return (dense_norm(module.bn2, y, mask) + x).relu(), mask
        if isinstance(module, sc.SparseConvolution):
            return dense_twin(module, x, mask)
        if isinstance(module, torch.nn.BatchNorm1d):
            return dense_norm(module, x, mask), mask
        if isinstance(module, torch.nn.ReLU):
            return x.relu(), mask
        for child in module:
            x, mask = walk(child, x, mask)
        return x, mask

    maps = []
    for stage in stages:
        x, mask = walk(stage, x, mask)
        maps.append(x)
    return maps


@pytest.mark.parametrize("name", VOXELS)
def test_the_encoders_are_their_dense_twins_in_float64(name):
    torch.manual_seed(0)
    net = recorded_weights(backbones[name]({}, 4, [48, 40, 24])).double().eval()
    batch = small_batch(torch.float64)
    sparse = sc.SparseConvTensor(batch["voxel_features"], batch["voxel_coords"], net.sparse_shape, 3)
    x = dense_stages((net.conv_input, net.conv1, net.conv2, net.conv3, net.conv4, net.conv_out), sparse)[-1]
    got = net(batch)["encoded_spconv_tensor"].dense()
    torch.testing.assert_close(got, x, rtol=0, atol=1e-10 * float(x.detach().abs().max()))


def small_pillars(width=32, empty=()):
    """Pillars of three samples on a grid of 48 x 64 cells, float64."""
    rng = np.random.default_rng(1)
    places = [np.stack(np.unravel_index(rng.permutation(64 * 48)[:200], (64, 48)), 1) for _ in range(3)]
    cells = np.concatenate(
        [np.concatenate([np.full((200, 1), b), places[b]], 1) for b in range(3) if b not in empty] or [np.zeros((0, 3))]
    )
    features = torch.from_numpy(rng.standard_normal((len(cells), width)))
    return {"pillar_features": features, "pillar_coords": torch.from_numpy(cells.astype(np.int32)), "batch_size": 3}


@pytest.mark.parametrize("name", PILLARS)
def test_the_pillar_encoders_are_their_dense_twins_in_float64(name):
    net = recorded_weights(backbones[name]({}, 32, [48, 64, 1])).double().eval()
    batch = small_pillars()
    sparse = sc.SparseConvTensor(batch["pillar_features"], batch["pillar_coords"], [64, 48], 3)
    want = dense_stages((net.conv1, net.conv2, net.conv3, net.conv4), sparse)
    want.append(net.conv5(want[-1]))
    out = net(batch)
    got = [x if torch.is_tensor(x) else x.dense() for x in out["multi_scale_2d_features"].values()]
    assert [tuple(x.shape) for x in got] == [
        (3, c, 64 // s, 48 // s) for c, s in zip(net.backbone_channels.values(), out["multi_scale_2d_strides"].values())
    ]
    for ours, dense in zip(got, want):
        torch.testing.assert_close(ours, dense, rtol=0, atol=1e-10 * float(dense.detach().abs().max()))


@pytest.mark.parametrize("name", PILLARS)
@pytest.mark.parametrize("empty", [(1,), (0, 1, 2)])
def test_pillar_samples_may_be_empty(name, empty):
    net = backbones[name]({}, 32, [48, 64, 1]).double().train()
    maps = net(small_pillars(empty=empty))["multi_scale_2d_features"]
    assert not maps["x_conv4"][list(empty)].any()
    (maps["x_conv5"].square().sum() + sum(p.sum() * 0 for p in net.parameters())).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("name", VOXELS)
@pytest.mark.parametrize("empty", [(1,), (0, 1, 2)])
def test_empty_samples_train(name, empty):
    net = backbones[name]({}, 4, [48, 40, 24]).train()
    nothing = {
        "voxel_features": torch.zeros(0, 4),
        "voxel_coords": torch.zeros(0, 4, dtype=torch.int32),
        "batch_size": 3,
    }
    batch = small_batch(torch.float32, empty=empty) if len(empty) < 3 else nothing
    dense = net(batch)["encoded_spconv_tensor"].dense()
    assert tuple(dense.shape) == (3, 128, 1, 5, 6) and not dense[list(empty)].any()
    (dense.sum() + sum(p.sum() * 0 for p in net.parameters())).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_openpcdets_door():
    x = spconv.SparseConvTensor(torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.int32), [4, 4, 4], 1)
    assert torch.equal(replace_feature(x, x.features * 2).features, torch.full((1, 4), 2.0))
    names = (
        "SubMConv3d",
        "SparseConv3d",
        "SparseInverseConv3d",
        "SparseSequential",
        "SparseModule",
        "SubMConv2d",
        "SparseConv2d",
    )
    assert all(hasattr(spconv, name) for name in names)
    assert isinstance(post_act_block(4, 8, 3, indice_key="a", conv_type="inverseconv")[0], spconv.SparseInverseConv3d)
    with pytest.raises(InputError, match="subm.*spconv.*inverseconv"):
        post_act_block(4, 8, 3, conv_type="dense")
