"""Runs one cell: python run.py method=moppa task=cifar100 (many: python run.py -m method=moppa,lora task=...)."""

from functools import partial

import hydra
from omegaconf import DictConfig

from moppa import features, record
from moppa.attempt import attempt
from moppa.backbone import weights_digest
from moppa.checkpoint import Checkpoint
from moppa.configured import make, offer, one_line_errors, sweep_name
from moppa.data import store
from moppa.evaluate import predict, watch_every
from moppa.lean import leave_out
from moppa.log import Sheltered
from moppa.machine import Clock, device_named, prepare_process
from moppa.provenance import code_state
from moppa.seeds import generator_for
from moppa.touch import merge
from moppa.train import in_batches, train
from moppa.tuning import chosen, val200_accuracy


@hydra.main(version_base="1.3", config_path="configs", config_name="cell")
def main(config: DictConfig) -> float | None:
    """Runs one cell and gives its accuracy on val200; what is the user's to mend ends it with one line."""
    with one_line_errors():
        return val200_accuracy(run_cell(config))


def run_cell(config: DictConfig) -> record.Cell:
    """config -> data -> backbone -> attach -> train -> evaluate -> record."""
    backbone, task, source = make(config, "backbone"), make(config, "task"), make(config, "data")
    weights_sha256 = weights_digest(backbone)
    config, tuned = chosen(config, weights_sha256=weights_sha256)
    recipe, protocol, logger = make(config, "train"), make(config, "protocol"), Sheltered(make(config, "logger"))
    device, clock = device_named(config.run.device), Clock()
    prepare_process(config.run.threads, config.run.products, keep_memory=config.run.keep_memory)

    cell = record.cell_of(config, weights_sha256=weights_sha256)
    with attempt(cell) as is_ours:
        if not is_ours:
            return cell

        model = backbone.build(
            num_classes=task.num_classes, drop_path=recipe.drop_path, generator=generator_for(config.seed, "head")
        )
        preprocess = backbone.preprocess(model)
        stored = {"source": source, "size": preprocess.size, "interpolation": preprocess.interpolation}
        load = protocol.only(partial(store.load, task, **stored))
        offer(
            make(config, "method.attach", _partial_=True),
            model.to(device),
            generator=generator_for(config.seed, "method"),
            examples=lambda: in_batches(load(protocol.train), recipe.batch_size, preprocess, device),
        )
        leave_out(model, config.run.lean)
        with clock("data"):
            proof = store.proof(task, **stored)
            learner, load, normalise = features.instead_of_images(
                model.to(device),
                load,
                preprocess,
                kept_in=source.store if config.run.keep_features else None,
                of={"timm": backbone.timm, "weights": weights_sha256},
                batch_size=config.run.eval_batch,
            )
            learned = load(protocol.train)
            store.begin(task, protocol.evaluate, **stored)

        checkpoint = Checkpoint(path=cell.checkpoint, epochs=config.run.checkpoint_epochs, code=code_state())
        logger.start(name=f"{cell.name} {cell.key}", group=sweep_name(), config=cell.config)
        look = {"normalise": normalise, "batch_size": config.run.eval_batch}
        training = train(
            learner,
            learned,
            recipe=recipe,
            normalise=normalise,
            seed=config.seed,
            checkpoint=checkpoint,
            logger=logger,
            watch=watch_every(protocol.every, lambda: load(protocol.evaluate), **look),
            compiled=config.run.compile,
        )
        trained = record.keep_trained(cell, model)

        with clock("data"):
            asked = load(protocol.evaluate)
        with clock("evaluate"):
            predicted = predict(merge(learner), asked.images, **look)

        written = record.write(
            cell,
            trained=trained,
            tuned=tuned,
            predicted=predicted,
            labels=asked.labels,
            split={**proof, "lineage": source.lineage, "num_train": len(learned.labels)},
            preprocess=preprocess,
            model=model,
            training=training,
            seconds=clock.seconds,
        )
        checkpoint.remove()
        logger.finish(record.figures(written))
        print(f"{cell.name}: {written['correct']} of {written['total']} right, {cell.record}")
    return cell


if __name__ == "__main__":
    main()
