"""On a machine without a CUDA device, "cuda" means the CPU behind the door."""

import io
import threading

import pytest
import torch

from pcdet_focal.integrations.openpcdet import no_cuda

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")


@pytest.fixture
def on_cpu(capsys):
    assert no_cuda.cuda_means_cpu() and no_cuda.cuda_means_cpu()
    yield capsys.readouterr().err
    no_cuda.undo()


def test_it_is_said_once(on_cpu):
    assert on_cpu == "no CUDA device: cuda means the CPU in this process\n"


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3", torch.device("cuda"), torch.device("cuda:1")])
def test_tensors_and_modules_are_made_and_moved_on_the_cpu(on_cpu, device):
    net = torch.nn.Linear(3, 2, device=device)
    x = torch.ones(2, 3, dtype=torch.float64, device=device)
    assert net(torch.zeros(4, 3, device=device)).device.type == "cpu"
    for made in (
        x.cuda(),
        x.cuda(0, non_blocking=True),
        x.to(device),
        x.to(device, torch.float32, non_blocking=True),
        x.to(device=device),
        x.new_zeros(3, device=device),
        x.pin_memory(),
        torch.zeros_like(x, device=device),
        torch.tensor([1.0], device=device),
        torch.from_numpy(x.numpy()).cuda(),
        torch.cuda.FloatTensor([1.0]),
        next(net.to(device).cuda().parameters()),
        next(net.to(device=device, dtype=torch.float64).parameters()),
    ):
        assert made.device.type == "cpu"
    assert x.to(device, torch.float32).dtype == torch.float32
    with torch.device(device):
        assert torch.zeros(2).device.type == "cpu"


def test_it_holds_in_every_thread(on_cpu):
    """ROS calls back in threads of its own."""
    devices = []
    thread = threading.Thread(target=lambda: devices.append(torch.zeros(2, device="cuda").cuda().device.type))
    thread.start()
    thread.join()
    assert devices == ["cpu"]


def test_functions_of_torch_cuda(on_cpu):
    torch.cuda.set_device(1)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.manual_seed(1)
    torch.cuda.manual_seed_all(1)
    assert torch.cuda.current_device() == 0 and 3 % torch.cuda.device_count() == 0
    assert torch.cuda.get_device_name(0) == "CPU" and not torch.cuda.is_available()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(torch.cuda.Stream()), torch.cuda.device(0):
        start.record()
        end.record()
        end.synchronize()
    torch.cuda.current_stream().synchronize()
    assert start.elapsed_time(end) >= 0
    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    with torch.random.fork_rng():
        torch.rand(5)
    assert torch.equal(torch.rand(2), first)


@pytest.mark.parametrize(
    "map_location",
    [None, "cuda", "cuda:0", torch.device("cuda"), {"cuda:0": "cuda:1"}, lambda storage, loc: storage.cuda(0), "cpu"],
)
def test_checkpoints_are_loaded_on_the_cpu(on_cpu, map_location):
    file = io.BytesIO()
    torch.save({"a": torch.arange(3)}, file)
    file.seek(0)
    assert torch.load(file, map_location=map_location)["a"].tolist() == [0, 1, 2]


def test_scripting_and_tracing_still_work(on_cpu):
    @torch.jit.script
    def scripted(x):
        return torch.zeros(2) + torch.ones_like(x).to(torch.float64)

    assert scripted(torch.ones(2)).tolist() == [1, 1]
    traced = torch.jit.trace(lambda x: x.cuda() + torch.ones(2, device="cuda"), torch.ones(2))
    assert traced(torch.ones(2)).tolist() == [2, 2]


def test_compiled_functions_still_work(on_cpu):
    def function(x):
        return torch.zeros(2, device="cuda") + x.cuda().to("cuda") * torch.ones_like(x)

    torch._dynamo.reset()
    assert torch.compile(function, backend="eager")(torch.ones(2)).tolist() == [1, 1]


def test_everything_is_given_back():
    before = {name: getattr(torch, name) for name in ("zeros", "load", "tensor")}
    to, cuda, count = torch.Tensor.to, torch.nn.Module.cuda, torch.cuda.device_count
    no_cuda.cuda_means_cpu()
    assert torch.zeros is not before["zeros"]
    no_cuda.undo()
    assert all(getattr(torch, name) is old for name, old in before.items())
    assert torch.Tensor.to is to and torch.nn.Module.cuda is cuda and torch.cuda.device_count is count
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(2).cuda()


def test_a_process_group_of_nccl_is_one_of_gloo(on_cpu, tmp_path):
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert torch.distributed.get_backend() == "gloo"
    finally:
        torch.distributed.destroy_process_group()
