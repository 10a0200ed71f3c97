"""Runs one cell: python run.py method=moppa task=cifar100 (many: python run.py -m method=moppa,lora task=...)."""

from omegaconf import DictConfig

from moppa.backbone.efficient_blocks import skip_unused
from moppa.peft.inject import merge
from moppa.peft.method import attach_method
from moppa.record.cell import Cell
from moppa.record.parts import instantiate_parts
from moppa.record.same_images import check_same_images
from moppa.record.write import Outcome, describe_splits, record_summary, save_trained, write_record
from moppa.sweep.resolve import resolve_cell
from moppa.sweep.select_hparams import val200_accuracy
from moppa.sweep.worker import lease
from moppa.train.batches import example_batches
from moppa.train.evaluate import Evaluator
from moppa.train.feature_cache import inputs_of
from moppa.utils.config import hydra_main, sweep_name
from moppa.utils.device import PhaseTimer, configure_process, get_device
from moppa.utils.seeds import generator_for


@hydra_main
def main(config: DictConfig) -> float | None:
    """Runs the cell that the command line describes and returns its accuracy on val200, for a search over settings."""
    return val200_accuracy(run_cell(config))


def run_cell(config: DictConfig) -> Cell:
    """Trains one method on one task with one seed, evaluates it once, and writes the record."""
    run, seed = config.run, config.seed
    configure_process(threads=run.threads, backend=run.matmul_backend, keep_memory=run.keep_memory)
    device, timer = get_device(run.device), PhaseTimer()
    cell = resolve_cell(config)  # with hparams=best, its settings are selected here
    parts = instantiate_parts(cell)
    check_same_images(cell, parts.task, parts.source)
    with lease(cell) as is_ours:
        if not is_ours:
            return cell

        # model: the frozen backbone with a fresh head, and the method attached to it
        model = parts.build_model().to(device)
        preprocess = parts.backbone.preprocess(model)
        data = parts.data(preprocess)
        attach_method(
            model,
            parts.method,
            generator=generator_for(seed, "method"),
            examples=lambda: example_batches(data.load(data.train_split), parts.recipe, preprocess, device),
        )
        skip_unused(model.to(device), run.skip_unused)

        # data: images of a checked split, or cached features if only the head is trained
        with timer("data"):
            split_check = data.check()
            inputs = inputs_of(model, data, preprocess, parts.feature_cache)
            images = inputs.load(data.train_split)
            data.start_reading(data.eval_split)

        # training
        parts.logger.start(name=f"{cell.name} {cell.key}", group=sweep_name(), config=cell.config)
        evaluator = Evaluator(normalize=inputs.normalize, batch_size=run.eval_batch)
        training = parts.fit(
            inputs.model,
            images,
            recipe=parts.recipe,
            normalize=inputs.normalize,
            seed=seed,
            checkpoint=parts.checkpoint,
            logger=parts.logger,
            on_epoch=evaluator.every(parts.protocol.every, lambda: inputs.load(data.eval_split)),
            compile_mode=run.compile,
        )
        trained_sha256 = save_trained(cell, model)

        # evaluation, once, after the last step
        with timer("data"):
            eval_images = inputs.load(data.eval_split)
        with timer("evaluate"):
            predicted = evaluator.predict(merge(inputs.model), eval_images.images, title=data.eval_split)

        # record
        outcome = Outcome(
            predicted=predicted,
            labels=eval_images.labels,
            split={**split_check, **describe_splits(cell, parts.source, images, eval_images)},
            preprocess=preprocess,
            training=training,
            trained_sha256=trained_sha256,
            seconds=timer.seconds,
        )
        record = write_record(cell, model, outcome)
        parts.checkpoint.remove()
        parts.logger.finish(record_summary(record))
        print(f"{cell.name}: {record['correct']} of {record['total']} correct, {cell.record}")
    return cell


if __name__ == "__main__":
    main()
