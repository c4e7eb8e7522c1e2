"""PillarVFE works on the slots that hold a point; here it is held to the dense form over all slots of every pillar."""

import copy

import pytest
import torch
from easydict import EasyDict
from torch import nn

from pcdet_focal.models.backbones_3d.vfe.pillar_vfe import PillarVFE, repeated_batch_norm

RANGE, SIZE = [0.0, -4.0, -3.0, 8.0, 4.0, 1.0], [0.5, 0.5, 4.0]


def make_vfe(filters, **changes):
    cfg = EasyDict(WITH_DISTANCE=True, USE_ABSLOTE_XYZ=True, USE_NORM=True, NUM_FILTERS=filters) | changes
    return PillarVFE(EasyDict(cfg), num_point_features=4, voxel_size=SIZE, point_cloud_range=RANGE).double()


def make_batch(num_points, slots=5):
    torch.manual_seed(0)
    num_points = torch.tensor(num_points)
    voxels = torch.randn(len(num_points), slots, 4, dtype=torch.float64)
    voxels *= (torch.arange(slots) < num_points.unsqueeze(1)).unsqueeze(-1)
    coords = torch.stack([torch.arange(len(num_points)) % n for n in (2, 1, 16, 16)], dim=1).int()
    return {"voxels": voxels, "voxel_num_points": num_points, "voxel_coords": coords}


def dense_form(vfe, batch):
    """PointPillars' encoder over all (M, P) slots."""
    voxels, num_points, coords = batch["voxels"], batch["voxel_num_points"], batch["voxel_coords"]
    xyz = voxels[..., :3]
    mean = xyz.sum(dim=1, keepdim=True) / num_points.clamp(min=1).view(-1, 1, 1)
    centre = coords[:, [3, 2, 1]] * torch.tensor(SIZE).double() + torch.tensor([0.25, -3.75, -1.0]).double()
    x = torch.cat([voxels, xyz - mean, xyz - centre.unsqueeze(1), xyz.norm(dim=2, keepdim=True)], dim=-1)
    x = x * (torch.arange(voxels.shape[1]) < num_points.unsqueeze(1)).unsqueeze(-1)
    for layer in vfe.pfn_layers:
        x = layer.linear(x)
        x = (x if layer.norm is None else layer.norm(x.flatten(0, 1)).view(x.shape)).relu()
        highest = x.max(dim=1, keepdim=True).values
        x = highest if layer.last_vfe else torch.cat([x, highest.expand_as(x)], dim=2)
    return x.squeeze(1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("use_norm", [True, False])
@pytest.mark.parametrize("filters", [[6], [8, 6], [8, 8, 6]], ids=str)
def test_equals_the_dense_form(filters, use_norm, training):
    vfe, batch = make_vfe(filters, USE_NORM=use_norm).train(training), make_batch([1, 5, 3, 0, 5, 2])
    for name, buffer in vfe.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    twin = copy.deepcopy(vfe)
    found, wanted = vfe(dict(batch))["pillar_features"], dense_form(twin, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    factor = torch.randn_like(wanted)
    (found * factor).sum().backward()
    (wanted * factor).sum().backward()
    for (name, ours), theirs in zip(vfe.named_parameters(), twin.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11, msg=name)
    for (name, ours), theirs in zip(vfe.named_buffers(), twin.buffers()):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_repeated_batch_norm(settings):
    class Subclass(nn.BatchNorm1d):
        """Gets the repeated rows, as SyncBatchNorm does."""

    torch.manual_seed(1)
    rows, repeats = torch.randn(7, 3, dtype=torch.float64), torch.tensor([1, 1, 4, 0, 2, 1, 3])
    factor, where = torch.randn(12, 3, dtype=torch.float64), torch.repeat_interleave(torch.arange(7), repeats)
    plain, closed, other = (kind(3, **settings).double() for kind in (nn.BatchNorm1d, nn.BatchNorm1d, Subclass))
    for _ in range(2):
        results = []
        for norm in (plain, closed, other):
            leaf = rows.clone().requires_grad_()
            made = norm(leaf[where]) if norm is plain else repeated_batch_norm(norm, leaf, repeats)[where]
            (made.sin() * factor).sum().backward()
            results.append((made.detach(), leaf.grad))
        for found in results[1:]:
            torch.testing.assert_close(found, results[0])
    for norm in (closed, other):
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[name], value, msg=name)


def test_no_pillars():
    assert make_vfe([8, 6]).train()(make_batch([]))["pillar_features"].shape == (0, 6)
