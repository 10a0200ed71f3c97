import pytest
import timm


@pytest.fixture
def checkpoint():
    """Weights of timm's test_vit that no seed gives."""
    state = timm.create_model("test_vit.r160_in1k", num_classes=7).state_dict()
    return {name: (tensor + 0.5).contiguous() for name, tensor in state.items()}
