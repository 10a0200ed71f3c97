"""VPT: Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119."""

from torch import Generator, nn

from moppa.peft.prompts import attach_prompts


def attach(
    model: nn.Module, *, num_prompts: int, deep: bool, dropout: float, pool_prompts: bool, generator: Generator | None
) -> None:
    """Adds `num_prompts` prompts to the first block (shallow), or new ones to every block (deep).

    Shallow prompts are removed after the last block, deep ones after their own, before the final norm. If the head
    reads an average, `pool_prompts` keeps those of the last block, so that it averages their outputs too, as in the
    authors' code.
    """
    attach_prompts(
        model,
        num_prompts=num_prompts,
        deep=deep,
        dropout=dropout,
        pool_prompts=pool_prompts,
        transform=nn.Identity(),
        generator=generator,
        method="VPT",
    )
