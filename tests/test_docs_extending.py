"""docs/extending.md: each example is written to its file and trains two steps with the keys that follow it."""

import re
import sys

import pytest
import tiny_kitti
import torch
import yaml

from pcdet_focal import registry
from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.datasets import build_dataloader
from pcdet_focal.engine.optimization import build_optimizer, build_scheduler
from pcdet_focal.models import build_network, load_data_to_device, model_fn_decorator
from pcdet_focal.registry import Registry

PAGE = (tiny_kitti.REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"^## (.*?)$.*?^```python\n# my_lidar/(\w+)\.py\n(.*?)^```$.*?^```yaml\n(.*?)^```$", PAGE, re.M | re.S
)


@pytest.fixture
def registries_as_they_were(monkeypatch):
    tables = [value for value in vars(registry).values() if isinstance(value, Registry)]
    before = [dict(table) for table in tables]
    monkeypatch.setattr(registry, "_plugin_config_keys", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for table, entries in zip(tables, before):
        table.clear()
        table.update(entries)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lidar"]:
        del sys.modules[name]


def set_key(content, path: str, value) -> None:
    *nodes, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for node in nodes:
        content = content[node]
    content[last] = value


def test_the_page_has_its_examples():
    assert [title for title, *_ in EXAMPLES] == re.findall(r"^## (.*)$", PAGE, re.M) and len(EXAMPLES) == 6


@pytest.mark.parametrize("title, module, code, keys", EXAMPLES, ids=[example[1] for example in EXAMPLES])
def test_an_example_trains(title, module, code, keys, tmp_path, monkeypatch, recwarn, registries_as_they_were):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_lidar").mkdir()
    (tmp_path / f"my_lidar/{module}.py").write_text(code)
    content = {**tiny_kitti.config(tiny_kitti.dataset()), "CUSTOM_IMPORTS": [f"my_lidar.{module}"]}
    for path, value in yaml.safe_load(keys).items():
        set_key(content, path, value)
    cfg = cfg_from_yaml_file(tiny_kitti.write_config(tmp_path / "cfgs/x/mine.yaml", content), Config())
    assert not [str(w.message) for w in recwarn if "nothing here reads" in str(w.message)]

    dataset, loader, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 2, dist=False, workers=0, training=True)
    torch.manual_seed(0)
    model = build_network(model_cfg=cfg.MODEL, num_class=3, dataset=dataset).train()
    optimizer = build_optimizer(model, cfg.OPTIMIZATION)
    scheduler, _ = build_scheduler(optimizer, len(loader), 2, last_epoch=-1, optim_cfg=cfg.OPTIMIZATION)
    own = [p for m in model.modules() if type(m).__module__.startswith("my_lidar") for p in m.parameters()]
    before, logged = [p.clone() for p in own], {}
    for step, batch in zip(range(2), loader):
        scheduler.step(step)
        optimizer.zero_grad()
        loss, logged, _ = model_fn_decorator()(model, batch)
        loss.backward()
        assert torch.isfinite(loss)
        optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, own))
    assert bool(own) == (module in ("encoders", "heads", "roi_heads"))
    if module == "roi_heads":
        assert loss.item() == pytest.approx(logged["loss_rpn"] + logged["rcnn_loss_iou"])

    validation, loader, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 2, dist=False, workers=0, training=False)
    model.eval()
    with torch.no_grad():
        batch = next(iter(loader))
        load_data_to_device(batch, "cpu")
        predictions, recall = model(batch)
    assert len(predictions) == 2 and recall["gt"] > 0
    if module == "roi_heads":
        assert "roi_0.3" in recall and all(len(p["pred_boxes"]) <= 16 for p in predictions)
        assert set(torch.cat([p["pred_labels"] for p in predictions]).tolist()) <= {1, 2, 3}
