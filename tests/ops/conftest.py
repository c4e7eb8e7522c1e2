import pytest
import torch

from pcdet_focal.ops import threads


@pytest.fixture(params=["team", "pool"])
def two_threads(request, monkeypatch):
    """Two threads, of torch's own team, and again of the pool that stands in for it."""
    if request.param == "pool":
        monkeypatch.setattr(threads, "_start_team", None)
    elif threads._start_team is None:
        pytest.skip("this torch has no OpenMP runtime that can be asked for its threads")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield request.param
    torch.set_num_threads(before)
