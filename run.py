"""Runs one cell: python run.py method=moppa task=cifar100 (many: python run.py -m method=moppa,lora task=...)."""

import hydra
from omegaconf import DictConfig

from moppa import record
from moppa.backbone import weights_digest
from moppa.checkpoint import Checkpoint
from moppa.configured import make, one_line_errors
from moppa.data import store
from moppa.evaluate import predict
from moppa.machine import Clock, device_named
from moppa.provenance import code_state
from moppa.seeds import generator_for
from moppa.touch import merge
from moppa.train import train


@hydra.main(version_base="1.3", config_path="configs", config_name="cell")
def main(config: DictConfig) -> None:
    """Runs one cell; what is the user's to mend ends it with one line."""
    with one_line_errors():
        run_cell(config)


def run_cell(config: DictConfig) -> None:
    """config -> data -> backbone -> attach -> train -> evaluate -> record."""
    backbone, task, source = make(config, "backbone"), make(config, "task"), make(config, "data")
    recipe, protocol, logger = make(config, "train"), make(config, "protocol"), make(config, "logger")
    device, clock = device_named(config.run.device), Clock()

    cell = record.cell_of(config, weights_sha256=weights_digest(backbone))
    if cell.is_done:
        print(f"done already: {cell.record}")
        return
    cell.check_writable()

    model = backbone.build(
        num_classes=task.num_classes, drop_path=recipe.drop_path, generator=generator_for(config.seed, "head")
    )
    make(config, "method.attach", _partial_=True)(model, generator=generator_for(config.seed, "method"))
    preprocess = backbone.preprocess(model)
    with clock("data"):
        sight = {"size": preprocess.size, "interpolation": preprocess.interpolation}
        proof = store.proof(task, source, **sight)
        learned = store.load(task, protocol.train, source, **sight)

    checkpoint = Checkpoint(path=cell.checkpoint, epochs=config.run.checkpoint_epochs, code=code_state())
    logger.start(name=cell.name, group=config.method.name, config=cell.config)
    model.to(device)
    training = train(
        model, learned, recipe=recipe, preprocess=preprocess, seed=config.seed, checkpoint=checkpoint, logger=logger
    )

    with clock("data"):
        asked = store.load(task, protocol.evaluate, source, **sight)
    with clock("evaluate"):
        predicted = predict(merge(model), asked.images, preprocess=preprocess, batch_size=config.run.eval_batch)

    written = record.write(
        cell,
        predicted=predicted,
        labels=asked.labels,
        split={**proof, "lineage": source.lineage, "num_train": len(learned.labels)},
        preprocess=preprocess,
        model=model,
        training=training,
        seconds=clock.seconds,
    )
    checkpoint.remove()
    logger.finish(written)
    print(f"{cell.name}: {written['correct']} of {written['total']} right, {cell.record}")


if __name__ == "__main__":
    main()
