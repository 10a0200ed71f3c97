"""Runs one cell: python run.py method=moppa task=cifar100 (many: python run.py -m method=moppa,lora task=...)."""

from functools import partial

import hydra
from omegaconf import DictConfig

from moppa.backbone.efficient_blocks import skip_unused
from moppa.backbone.model import compute_weights_sha256
from moppa.data import cache
from moppa.peft.inject import merge
from moppa.record.cell import Cell, cell_from_config, record_summary, save_trained, write_record
from moppa.sweep.select_hparams import select_hparams, val200_accuracy
from moppa.sweep.worker import lease
from moppa.train import feature_cache
from moppa.train.checkpoint import Checkpoint
from moppa.train.evaluate import evaluate_every, predict
from moppa.train.loggers import SafeLogger
from moppa.train.loop import iterate_batches, train
from moppa.utils.config import call_with_supported, instantiate, one_line_errors, sweep_name
from moppa.utils.device import PhaseTimer, configure_process, get_device
from moppa.utils.provenance import code_state
from moppa.utils.seeds import generator_for


@hydra.main(version_base="1.3", config_path="configs", config_name="cell")
def main(config: DictConfig) -> float | None:
    """Runs one cell and gives its accuracy on val200; what is the user's to mend ends it with one line."""
    with one_line_errors():
        return val200_accuracy(run_cell(config))


def run_cell(config: DictConfig) -> Cell:
    """config -> data -> backbone -> attach -> train -> evaluate -> record."""
    backbone, task, source = (
        instantiate(config, "backbone"),
        instantiate(config, "task"),
        instantiate(config, "data"),
    )
    weights_sha256 = compute_weights_sha256(backbone)
    config, tuned = select_hparams(config, weights_sha256=weights_sha256)
    recipe, protocol, logger = (
        instantiate(config, "train"),
        instantiate(config, "protocol"),
        SafeLogger(instantiate(config, "logger")),
    )
    device, clock = get_device(config.run.device), PhaseTimer()
    configure_process(config.run.threads, config.run.matmul_backend, keep_memory=config.run.keep_memory)

    cell = cell_from_config(config, weights_sha256=weights_sha256)
    with lease(cell) as is_ours:
        if not is_ours:
            return cell

        model = backbone.build(
            num_classes=task.num_classes, drop_path=recipe.drop_path, generator=generator_for(config.seed, "head")
        )
        preprocess = backbone.preprocess(model)
        stored = {"source": source, "size": preprocess.size, "interpolation": preprocess.interpolation}
        load = protocol.only(partial(cache.load_split, task, **stored))
        call_with_supported(
            instantiate(config, "method.attach", _partial_=True),
            model.to(device),
            generator=generator_for(config.seed, "method"),
            examples=lambda: iterate_batches(load(protocol.train), recipe.batch_size, preprocess, device),
        )
        skip_unused(model, config.run.skip_unused)
        with clock("data"):
            proof = cache.split_check(task, **stored)
            learner, load, normalize = feature_cache.use_cached_features(
                model.to(device),
                load,
                preprocess,
                kept_in=source.cache if config.run.keep_features else None,
                of={"timm": backbone.timm, "weights": weights_sha256},
                batch_size=config.run.eval_batch,
            )
            learned = load(protocol.train)
            cache.start_reading(task, protocol.evaluate, **stored)

        checkpoint = Checkpoint(path=cell.checkpoint, epochs=config.run.checkpoint_epochs, code=code_state())
        logger.start(name=f"{cell.name} {cell.key}", group=sweep_name(), config=cell.config)
        look = {"normalize": normalize, "batch_size": config.run.eval_batch}
        training = train(
            learner,
            learned,
            recipe=recipe,
            normalize=normalize,
            seed=config.seed,
            checkpoint=checkpoint,
            logger=logger,
            watch=evaluate_every(protocol.every, lambda: load(protocol.evaluate), **look),
            compiled=config.run.compile,
        )
        trained = save_trained(cell, model)

        with clock("data"):
            asked = load(protocol.evaluate)
        with clock("evaluate"):
            predicted = predict(merge(learner), asked.images, **look)

        written = write_record(
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
        logger.finish(record_summary(written))
        print(f"{cell.name}: {written['correct']} of {written['total']} correct, {cell.record}")
    return cell


if __name__ == "__main__":
    main()
