import pytest

from tests.conftest import FEW_IMAGES


@pytest.fixture
def toy(toy):
    """The overrides of the toy cell with all 800 and 200 images, because these tests count them."""
    return [override for override in toy if override not in FEW_IMAGES]
