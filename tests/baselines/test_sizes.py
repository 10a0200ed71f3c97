"""The numbers of parameters in the YAMLs against the formulas of the papers."""

from tests.test_laws import facts_of


def test_the_numbers_of_parameters_are_the_papers_formulas():
    depth, dim, hidden, patch = 12, 768, 3072, 16 * 16 * 3
    biases = 3 * dim + dim + hidden + dim
    expected = {
        "bitfit": depth * (biases + 2 * dim) + 2 * dim,
        "lntune": depth * 4 * dim + 2 * dim,
        "vpt_shallow": dim * 100,
        "vpt_deep": depth * dim * 10,
        "vfpt": depth * dim * 10,
        "ssf": 2 * (depth * (biases + 2 * dim) + 2 * dim),
        "fact_tt": 2 * dim * 16 + 12 * depth * 16**2,
        "fact_tk": 2 * dim * 32 + 12 * depth * 32 + 32**3,
        "arc": 2 * dim * 50 + depth * 2 * (50 + dim),
        "freqfit": depth * (14 * 8 * dim * 2 + 2 * dim),
        "rlrr": depth * (4 * 3 * dim + 2 * (2 * hidden + dim) - hidden + dim + 4 * dim) + 4 * dim,
        "difffit": depth * (biases + 6 * dim) + 3 * dim,
        "glora": depth
        * (2 * 4 * (4 * dim + 2 * dim + 2 * (dim + hidden)) + 2 * biases + 4 * (3 * dim + hidden) + 4 * 4),
        "mam": depth * (2 * 30 * dim + 2 * 8 * dim + 8 + dim),
        "ia3": depth * (2 * dim + hidden),
        "vera": depth * 2 * (dim + 256),
        "pissa": depth * 2 * 2 * dim * 8,
        "olora": depth * 2 * 2 * dim * 8,
        "lora_xs": depth * 4 * 16**2,
        "fourierft": depth * 2 * 3000,
        "snell": depth * 8 * (4 * 2 * dim + 2 * (dim + hidden)),
        "gps": depth * 2 * biases + 2 * dim,  # a weight and a bias per output, also of the patch embedding
        "oft": depth * (5 * dim + hidden) * (16 - 1) // 2,
        "boft": depth * ((5 * dim + hidden) * 2 * (8 - 1) // 2 + 3 * dim + dim + hidden + dim),
        "adalora": depth * 2 * (4 * (2 * dim + 1) + 2 * (dim + hidden + 1)),
        "lst": (depth + 1) * (dim + 1) * 96  # Down
        + depth * (12 * 96**2 + (3 + 1 + 4 + 1 + 4) * 96 + 1)  # side blocks: matrices, biases, norms; gate
        + 2 * 96
        + (96 + 1) * dim,
        "expert_pyramid": depth * 2 * (8 * (dim // 2) * 2 + 2 * (4 + 16 + 36 + 64) + 8),
        "id3": depth * 2 * 2 * dim * 8,  # the budget is the size of LoRA
        "mask_tuning": depth * 4 * int(0.1 * dim**2),
        "polyhistor": 2 * 16 * 4 * (dim + 32) + depth * 2 * (16 + 2),
        "queryable_lora": depth * 2 * 2 * dim * 8 + 8 * 8**2 + 8 * 16 + 16 * 8 + 16 * dim,
        "relaxed_recursive": depth * 16 * (4 * 2 * dim + 2 * (dim + hidden)),
        "rdp_lora": 4 * 2 * 2 * dim * 8,  # 4 blocks
        "share": depth * 2 * (2 * 32 * 8 + 2 * 2 * (dim + 8)),
        "tap_slf": dim * 10 + 3 * 8 * (dim + 3 * dim + dim + dim),
        "full": depth * (12 * dim**2 + biases + 4 * dim) + patch * dim + dim + 197 * dim + dim + 2 * dim,
    }
    assert {method: facts_of(method)[0] for method in expected} == expected
