"""EfficientNet-Lite0 against timm's, on random weights."""

import pytest
import torch

from tests.support.weights import stir
from tuwen.core.compat import declare_torchvision_ops
from tuwen.model.image_towers.efficientnet import HEAD_WIDTH, EfficientNetLite0

declare_torchvision_ops()


# Norms folded, as without gradients, round elsewhere: 4e-5 in float32 under weights as wild, 1e-9 in float64.
@pytest.mark.parametrize(
    ("dtype", "gradients", "near"), [(torch.float32, True, 1e-5), (torch.float64, False, 1e-9)]
)
@pytest.mark.parametrize("size_px", [33, 64])
def test_it_computes_what_timm_computes(size_px: int, dtype: torch.dtype, gradients: bool, near: float) -> None:
    import timm

    torch.manual_seed(0)
    theirs = stir(timm.create_model("tf_efficientnet_lite0", num_classes=0))
    ours = EfficientNetLite0({"size_px": size_px}, 8).eval()
    names = [name for name in ours.state_dict() if not name.startswith("projection.")]
    state = dict(zip(names, theirs.state_dict().values(), strict=True))  # both list them from first to last
    ours.load_state_dict(state | {"projection.weight": ours.projection.weight})
    pixels = torch.randn(3, 3, size_px, size_px, dtype=dtype)
    with torch.set_grad_enabled(gradients):
        pooled = ours.to(dtype).pool(pixels)
        same = theirs.to(dtype)(pixels.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(pooled, same, atol=near, rtol=near)
        torch.testing.assert_close(ours(pixels), pooled @ ours.projection.weight.T)
    assert pooled.std(0).mean() > 0.01  # the images have different vectors
    assert pooled.shape == (3, HEAD_WIDTH)


def test_without_gradients_norms_are_folded_and_the_vectors_stay() -> None:
    torch.manual_seed(0)
    tower, pixels = stir(EfficientNetLite0({"size_px": 64}, 8)).eval(), torch.randn(3, 3, 64, 64)
    whole = tower.pool(pixels)
    passed: list[int] = []
    tower.stem.norm.register_forward_hook(lambda *_: passed.append(1))
    with torch.no_grad():
        folded = tower.pool(pixels)
        assert not passed
        torch.testing.assert_close(folded, whole.detach(), atol=1e-5, rtol=1e-5)
        tower.train().pool(pixels)  # norms of the batch's own mean cannot be
    assert passed


def test_checkpointing_computes_the_same_gradients() -> None:
    torch.manual_seed(0)
    tower, pixels = EfficientNetLite0({"size_px": 32}, 8), torch.randn(2, 3, 32, 32)
    gradients = []
    for checkpointing in (False, True):
        tower.checkpointing = checkpointing
        tower.zero_grad()
        tower(pixels).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in tower.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
